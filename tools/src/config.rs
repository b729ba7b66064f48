//! Setting keys of a configuration file without touching the rest of it.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use toml_edit::{DocumentMut, Item, Value};

/// Writes `template` with `settings` (`table.key=value`) applied. A key must be in the file, so that a typo is noticed.
pub fn write(template: &Path, settings: &[String], out: &Path) -> Result<()> {
    let text = fs::read_to_string(template).with_context(|| format!("read {}", template.display()))?;
    let mut document: DocumentMut = text.parse().with_context(|| template.display().to_string())?;
    for setting in settings {
        let (key, value) =
            setting.split_once('=').with_context(|| format!("{setting}: not of the form key=value"))?;
        set(&mut document, key, value)?;
    }
    fs::write(out, document.to_string()).with_context(|| format!("write {}", out.display()))
}

fn set(document: &mut DocumentMut, key: &str, text: &str) -> Result<()> {
    let mut item: &mut Item = document.as_item_mut();
    for part in key.split('.') {
        item = item.get_mut(part).with_context(|| format!("{key} is not in the template"))?;
    }
    let Some(old) = item.as_value_mut() else { bail!("{key} is a table") };
    // The type stays that of the template's value.
    let mut new = match old {
        Value::Boolean(_) => Value::from(text.parse::<bool>().with_context(|| format!("{key}={text}"))?),
        Value::Integer(_) => Value::from(text.parse::<i64>().with_context(|| format!("{key}={text}"))?),
        _ => Value::from(text),
    };
    *new.decor_mut() = old.decor().clone();
    *old = new;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_change_and_comments_stay() {
        let mut document: DocumentMut =
            "# first\n[a.b]\nx = \"1\" # why\ny = false\nz = 5\n".parse().unwrap();
        set(&mut document, "a.b.x", "/p").unwrap();
        set(&mut document, "a.b.y", "true").unwrap();
        set(&mut document, "a.b.z", "7").unwrap();
        assert_eq!(document.to_string(), "# first\n[a.b]\nx = \"/p\" # why\ny = true\nz = 7\n");
        assert!(set(&mut document, "a.b.typo", "1").is_err());
        assert!(set(&mut document, "a.b", "1").is_err());
    }
}
