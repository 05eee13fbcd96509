//! Documents whose commands are run: their shell blocks, cut into lines, typed one after the other as somebody would who reads them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::Context as _;

use crate::process::binary;

/// The lines of a document's shell blocks, in order, without those that are only comments. One that ends in a backslash goes on in the
/// next.
#[must_use]
pub fn lines(document: &str) -> Vec<String> {
    let mut inside = false;
    let mut found: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in document.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            text if inside && !text.is_empty() && !text.starts_with('#') => {
                match found.last_mut().filter(|_| goes_on) {
                    Some(before) => *before = format!("{} {text}", before.trim_end_matches('\\').trim_end()),
                    None => found.push(text.to_owned()),
                }
                goes_on = text.ends_with('\\');
            }
            _ => {}
        }
    }
    found
}

/// A shell in a folder. Nothing of the caller's own environment reaches it but the path, with our programs in front.
#[derive(Clone, Debug)]
pub struct Shell {
    folder: PathBuf,
    path: String,
    env: Vec<(String, String)>,
    /// What was set by lines before, for those that come.
    set: String,
}

impl Shell {
    /// In `folder`, which is its home, too.
    ///
    /// # Errors
    /// Our programs are not built.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        let memori = binary("memori")?;
        let programs = memori.parent().context("a folder")?.display();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
        Ok(Self { folder: folder.to_owned(), path, env: Vec::new(), set: String::new() })
    }

    /// With a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a line to its end. One that sets variables holds for the lines after it.
    ///
    /// # Errors
    /// There is no shell.
    pub fn run(&mut self, line: &str) -> anyhow::Result<Output> {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{}{line}", self.set)]).current_dir(&self.folder).stdin(Stdio::null()).env_clear();
        command.env("PATH", &self.path).env("HOME", &self.folder).envs(self.env.iter().cloned());
        let output = command.output()?;
        if output.status.success() && sets(line) {
            self.set.push_str(line);
            self.set.push('\n');
        }
        Ok(output)
    }
}

/// Whether a line does nothing but set variables.
fn sets(line: &str) -> bool {
    let mut rest = line.trim_start().strip_prefix("export ").unwrap_or(line).trim_start();
    loop {
        let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let Some(value) = rest[name..].strip_prefix('=').filter(|_| name > 0) else { return false };
        let end = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => match value[1..].find(quote) {
                Some(end) => end + 2,
                None => return false,
            },
            _ => value.find(char::is_whitespace).unwrap_or(value.len()),
        };
        rest = value[end..].trim_start();
        if rest.is_empty() || rest.starts_with('#') {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_shell_blocks() {
        let document =
            "text\n```sh\n# only a comment\nmemori up   # why\n\ncurl a \\\n  b\n```\n```json\n{}\n```\n```sh\nx=1\n```\n";
        assert_eq!(lines(document), ["memori up   # why", "curl a b", "x=1"]);
    }

    #[test]
    fn setting_is_told_from_doing() {
        for line in ["a=1", "export A_B=x C=y  # why", "key='authorization: Bearer k'", "a=$b"] {
            assert!(sets(line), "{line}");
        }
        for line in ["A=1 memori up", "memori up", "echo a=1", "", "='x'", "a='x"] {
            assert!(!sets(line), "{line}");
        }
    }
}
