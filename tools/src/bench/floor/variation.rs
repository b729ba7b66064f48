//! One change to the command line of a QEMU: something left out, or in its place. Pure.

use anyhow::{Context, Result, bail};

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Variation {
    /// The kernel's command line loses every word that begins so.
    KernelWithout(&'static str),
    /// The value of an option loses `,WORD`.
    Without(&'static str, &'static str),
    /// The value of an option gets `,WORD`.
    With(&'static str, &'static str),
    /// An option has another value.
    Instead(&'static str, &'static str),
    /// An option without a value is left out.
    WithoutFlag(&'static str),
    /// An option with a value is left out, the one whose value begins so.
    WithoutOption(&'static str, &'static str),
}

impl Variation {
    /// Changes `line`; `None` if it has nothing of what is to be left out.
    pub fn apply(self, mut line: Vec<String>) -> Result<Option<Vec<String>>> {
        let value = |line: &[String], option: &str| {
            line.iter()
                .position(|word| word == option)
                .map(|at| at + 1)
                .with_context(|| format!("no {option}"))
        };
        let before = line.clone();
        match self {
            Self::KernelWithout(start) => {
                let at = value(&line, "-append")?;
                let words: Vec<&str> =
                    before[at].split(' ').filter(|word| !word.starts_with(start)).collect();
                line[at] = words.join(" ");
            }
            Self::Without(option, word) => {
                let at = value(&line, option)?;
                line[at] = line[at].replace(&format!(",{word}"), "");
            }
            Self::With(option, word) => {
                let at = value(&line, option)?;
                line[at] = format!("{},{word}", line[at]);
            }
            Self::Instead(option, other) => {
                let at = value(&line, option)?;
                line[at] = other.into();
            }
            Self::WithoutFlag(flag) => line.retain(|word| word != flag),
            Self::WithoutOption(option, start) => {
                let found =
                    before.windows(2).position(|pair| pair[0] == option && pair[1].starts_with(start));
                if let Some(at) = found {
                    line.drain(at..at + 2);
                }
            }
        }
        if line.is_empty() {
            bail!("nothing is left of the command line");
        }
        Ok((line != before).then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_changes_what_it_names_and_tells_when_there_is_nothing() {
        let line = [
            "q",
            "-machine",
            "q35,vmport=off",
            "-append",
            "quiet panic=-1",
            "-device",
            "rng,x",
            "-nodefaults",
        ];
        let line: Vec<String> = line.map(str::to_owned).into();
        let changed =
            |variation: Variation| variation.apply(line.clone()).unwrap().map(|line| line.join("|"));
        for (variation, expected) in [
            (
                Variation::KernelWithout("quiet"),
                Some("q|-machine|q35,vmport=off|-append|panic=-1|-device|rng,x|-nodefaults"),
            ),
            (Variation::KernelWithout("tsc"), None),
            (
                Variation::Without("-machine", "vmport=off"),
                Some("q|-machine|q35|-append|quiet panic=-1|-device|rng,x|-nodefaults"),
            ),
            (
                Variation::With("-machine", "hpet=off"),
                Some("q|-machine|q35,vmport=off,hpet=off|-append|quiet panic=-1|-device|rng,x|-nodefaults"),
            ),
            (
                Variation::Instead("-machine", "pc"),
                Some("q|-machine|pc|-append|quiet panic=-1|-device|rng,x|-nodefaults"),
            ),
            (
                Variation::WithoutFlag("-nodefaults"),
                Some("q|-machine|q35,vmport=off|-append|quiet panic=-1|-device|rng,x"),
            ),
            (
                Variation::WithoutOption("-device", "rng"),
                Some("q|-machine|q35,vmport=off|-append|quiet panic=-1|-nodefaults"),
            ),
            (Variation::WithoutOption("-device", "net"), None),
        ] {
            assert_eq!(changed(variation).as_deref(), expected, "{variation:?}");
        }
        assert!(Variation::With("-cpu", "x").apply(line).is_err());
    }
}
