//! The rules of the guest's packet filter, by the tools that its image may have.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::error::{Context, Error, Result};

const DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];
const PATIENCE: Duration = Duration::from_secs(10);
/// More does not fit an answer.
const RULES_LIMIT: usize = 3 << 20;

/// The rules, as `iptables-save` tells them.
pub async fn rules(is_v6: bool) -> Result<Vec<u8>> {
    let tool = find(if is_v6 { "ip6tables-save" } else { "iptables-save" })?;
    let output = run(&tool, &[], Vec::new()).await?;
    if output.stdout.len() > RULES_LIMIT {
        return Err(Error::internal(format!("{}: more than {RULES_LIMIT} bytes of rules", tool.display())));
    }
    Ok(output.stdout)
}

/// Puts `rules` in the place of all there are; returns what the tool says to it.
pub async fn set_rules(is_v6: bool, rules: Vec<u8>) -> Result<Vec<u8>> {
    let tool = find(if is_v6 { "ip6tables-restore" } else { "iptables-restore" })?;
    Ok(run(&tool, &["--wait", "5"], rules).await?.stdout)
}

fn find(name: &str) -> Result<PathBuf> {
    let path = DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    path.ok_or_else(|| {
        let places = DIRS.join(" or ");
        Error::not_found(format!("the guest has no {name} in {places}: it takes a guest image with iptables"))
    })
}

async fn run(tool: &Path, args: &[&str], input: Vec<u8>) -> Result<Output> {
    let mut command = Command::new(tool);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context(format!("run {}", tool.display()))?;
    let stdin = child.stdin.take();
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A tool that does not read to the end says why in its own words.
            let _ = stdin.write_all(&input).await;
        }
    };
    let ended = timeout(PATIENCE, async { tokio::join!(feed, child.wait_with_output()).1 });
    let output = ended
        .await
        .map_err(|_| Error::internal(format!("{} does not end within {PATIENCE:?}", tool.display())))?
        .context(format!("run {}", tool.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::internal(format!("{}: {}: {}", tool.display(), output.status, said.trim())));
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_gets_its_input_whole_and_its_complaint_is_told() {
        let rules = vec![b'x'; 1 << 20];
        assert_eq!(run(Path::new("/bin/cat"), &[], rules.clone()).await.unwrap().stdout, rules);
        // One that reads nothing of it ends all the same.
        let complain = ["-c", "echo line 2 failed >&2; exit 3"];
        let error = run(Path::new("/bin/sh"), &complain, rules).await.unwrap_err().to_string();
        assert!(error.contains("/bin/sh: exit status: 3: line 2 failed"), "{error}");
    }
}
