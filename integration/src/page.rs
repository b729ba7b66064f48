//! The pages below `docs`, whose blocks the tests run: what a page says is what works.

use std::fs;

use crate::deploy::repository;

/// A page of the documentation.
pub struct Page {
    blocks: Vec<Block>,
}

/// What stands between two fences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The nearest heading above it, without its marks.
    pub heading: String,
    /// What the fence says that it is, such as `sh`.
    pub language: String,
    pub text: String,
}

impl Page {
    /// The page of that name, such as `docker.md`.
    pub fn read(name: &str) -> Self {
        let path = repository().join("docs").join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { blocks: blocks(&text) }
    }

    /// The blocks of one language, below any heading or below that one, in the page's order. There is at least one.
    pub fn blocks(&self, language: &str, heading: Option<&str>) -> Vec<&Block> {
        let wanted = |block: &&Block| {
            block.language == language && heading.is_none_or(|heading| block.heading == heading)
        };
        let found: Vec<_> = self.blocks.iter().filter(wanted).collect();
        assert!(!found.is_empty(), "the page has no block of {language} below {heading:?}");
        found
    }
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut heading, mut open) = (Vec::new(), String::new(), None::<Block>);
    for line in text.lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => {
                let (heading, language) = (heading.clone(), language.to_owned());
                open = Some(Block { heading, language, text: String::new() });
            }
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) if line.starts_with('#') => heading = line.trim_start_matches(['#', ' ']).to_owned(),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the page's last block has no end");
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_a_heading_and_a_language() {
        let text =
            "# Page\n```sh\necho 1 # no heading\n```\n## Other `thing`\n\n```json\n{\n}\n```\n```\n```\n";
        let block = |heading: &str, language: &str, text: &str| Block {
            heading: heading.into(),
            language: language.into(),
            text: text.into(),
        };
        let expected = [
            block("Page", "sh", "echo 1 # no heading\n"),
            block("Other `thing`", "json", "{\n}\n"),
            block("Other `thing`", "", ""),
        ];
        assert_eq!(blocks(text), expected);
    }
}
