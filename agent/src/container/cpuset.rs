//! Lists of CPUs as the kernel writes them: `0-3,5`. Pure.

use std::collections::BTreeSet;

use crate::error::{Error, Result};

/// More than any kernel is built for.
const MOST: u32 = 8192;

/// The numbers in a list.
pub fn parse(list: &str) -> Result<BTreeSet<u32>> {
    let bad = || Error::invalid(format!("{list:?} is no list of CPUs such as 0-3,5"));
    let mut found = BTreeSet::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u32 = first.trim().parse().map_err(|_| bad())?;
        let last: u32 = last.trim().parse().map_err(|_| bad())?;
        if first > last || last >= MOST {
            return Err(bad());
        }
        found.extend(first..=last);
    }
    Ok(found)
}

/// What of `asked` is in `present`, as a list. `None` if nothing is: the numbers are another machine's.
pub fn within(asked: &str, present: &str) -> Result<Option<String>> {
    let present = parse(present)?;
    let common: Vec<String> = parse(asked)?.intersection(&present).map(|number| number.to_string()).collect();
    Ok((!common.is_empty()).then(|| common.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_cut_to_what_there_is() {
        for (asked, present, cut) in [
            ("0", "0-3", Some("0")),
            ("0-1,3", "0-3", Some("0,1,3")),
            ("0-7", "0-1\n", Some("0,1")),
            ("4-5", "0-1", None),
            (" 1 , 2 ", "0-3", Some("1,2")),
        ] {
            assert_eq!(within(asked, present).unwrap().as_deref(), cut, "{asked} of {present}");
        }
        for bad in ["x", "3-1", "0-", "-1", "0-99999999", "1;2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
