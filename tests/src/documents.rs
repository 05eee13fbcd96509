//! Pages whose commands are run: their shell blocks, cut into lines, typed one after the other as somebody would who reads them.
//!
//! Promises: [`page`] gives every command of a page but those that `left_out.json` names, so a test that types what it gives leaves out no
//! other; `page_guard.rs` holds that every page with commands has such a test.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use crate::process::{Addresses, binary};

/// Of what is typed and goes on, until it serves.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// A command that no test runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The page that tells it, from the root.
    pub page: String,
    /// The command, without a comment behind it.
    pub command: String,
    /// Why.
    pub reason: String,
}

/// All of them.
///
/// # Errors
/// The list cannot be read.
pub fn left_out() -> anyhow::Result<Vec<LeftOut>> {
    serde_json::from_str(include_str!("../left_out.json")).context("left_out.json")
}

/// The repository's root.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The commands of a page that are to be run, in order: all but those that are left out by name.
///
/// # Errors
/// There is no such page, it has none, or what is left out is not in it.
pub fn page(name: &str) -> anyhow::Result<Vec<String>> {
    let mut found = lines(&std::fs::read_to_string(root().join(name)).with_context(|| name.to_owned())?);
    for LeftOut { command, .. } in left_out()?.into_iter().filter(|left| left.page == name) {
        let before = found.len();
        found.retain(|line| without_comment(line) != command);
        ensure!(found.len() < before, "{name} does not say {command:?} any more");
    }
    ensure!(!found.is_empty(), "{name} has no commands to run");
    Ok(found)
}

/// The commands of a document's shell blocks, in order, without lines that are only comments. One that ends in a backslash goes on in the
/// next line, as does one within quotes.
#[must_use]
pub fn lines(document: &str) -> Vec<String> {
    let mut inside = false;
    let mut found: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    for line in document.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => {
                inside = false;
                found.extend(open.take());
            }
            text if inside => {
                let whole = match open.take() {
                    None if text.is_empty() || text.starts_with('#') => continue,
                    None => text.to_owned(),
                    Some(before) => match before.strip_suffix('\\') {
                        Some(before) => format!("{} {text}", before.trim_end()),
                        None => format!("{before}\n{line}"),
                    },
                };
                if whole.ends_with('\\') || end(&whole).1 {
                    open = Some(whole);
                } else {
                    found.push(whole);
                }
            }
            _ => {}
        }
    }
    found
}

/// A command without the comment behind it.
#[must_use]
pub fn without_comment(line: &str) -> &str {
    line[..end(line).0].trim_end()
}

/// Where a command ends and its comment begins, and whether a quote is still open there.
fn end(line: &str) -> (usize, bool) {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before.is_whitespace() => return (at, false),
            (None, '\'' | '"') if before != '\\' => quote = Some(c),
            (Some(open), _) if c == open && (open == '\'' || before != '\\') => quote = None,
            _ => {}
        }
        before = c;
    }
    (line.len(), quote.is_some())
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
        let env = vec![("MEMORI__EMBEDDING__KIND".to_owned(), "none".to_owned())];
        Ok(Self { folder: folder.to_owned(), path, env, set: String::new() })
    }

    /// With a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(present, _)| present != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the caller's cache, where the weights of models are.
    #[must_use]
    pub fn with_weights(self) -> Self {
        let home = std::env::var("HOME").unwrap_or_default();
        let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
        self.with("XDG_CACHE_HOME", &cache)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &format!("{}{line}", self.set)]);
        command.current_dir(&self.folder).stdin(Stdio::null()).env_clear();
        command.env("PATH", &self.path).env("HOME", &self.folder).envs(self.env.iter().cloned());
        command
    }

    /// Runs a line to its end. One that sets variables holds for the lines after it, with the values that it had then.
    ///
    /// # Errors
    /// There is no shell.
    pub fn run(&mut self, line: &str) -> anyhow::Result<Output> {
        let Some(names) = sets(line) else { return Ok(self.command(line).output()?) };
        let told: String = names.iter().map(|name| format!("\ndeclare -p {name}")).collect();
        let mut output = self.command(&format!("{line}{told}")).output()?;
        if output.status.success() {
            self.set.push_str(&String::from_utf8_lossy(&std::mem::take(&mut output.stdout)));
        }
        Ok(output)
    }

    /// Runs a line that has to succeed: what it says on stdout.
    ///
    /// # Errors
    /// It does not.
    pub fn types(&mut self, line: &str) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } = self.run(line)?;
        let out = String::from_utf8_lossy(&stdout).into_owned();
        ensure!(status.success(), "{line}: {status}: {out}{}", String::from_utf8_lossy(&stderr));
        Ok(out)
    }

    /// Types what goes on until it is told to stop, and waits until it serves.
    ///
    /// # Errors
    /// It does not.
    pub fn serves(&self, line: &str) -> anyhow::Result<Serving> {
        let log = tempfile::Builder::new().prefix("serving-").suffix(".log").tempfile_in(&self.folder)?.keep()?.1;
        let mut command = self.command(line);
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?).process_group(0);
        let mut child = command.spawn()?;
        let out = child.stdout.take().context("piped")?;
        let (sender, said) = mpsc::sync_channel(100);
        std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let mut serving = Serving { child, line: line.to_owned(), log, addresses: Addresses::default() };
        loop {
            let Ok(line) = said.recv_timeout(READY_WITHIN) else { bail!("{line} does not serve: {}", serving.log()) };
            if let Some(addresses) = Addresses::parse(&line) {
                serving.addresses = addresses;
                // What it says afterwards is read, so that it never waits.
                std::thread::spawn(move || said.iter().for_each(drop));
                return Ok(serving);
            }
        }
    }
}

/// What was typed and goes on. Ends when dropped.
pub struct Serving {
    child: Child,
    line: String,
    log: PathBuf,
    addresses: Addresses,
}

impl Serving {
    /// Where its API is.
    ///
    /// # Panics
    /// Where it has none.
    #[must_use]
    pub fn api(&self) -> String {
        format!("http://{}", self.addresses.api.unwrap_or_else(|| panic!("{} has no API", self.line)))
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Control-C: it drains, and ends well.
    ///
    /// # Errors
    /// It does not.
    pub fn stops(mut self) -> anyhow::Result<()> {
        self.signal(Signal::INT);
        let status = self.child.wait()?;
        ensure!(status.success(), "{}: {status}: {}", self.line, self.log());
        Ok(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// `memori up` of a page, on a free port.
#[must_use]
pub fn on_a_free_port(line: &str) -> String {
    let line = without_comment(line);
    let Some((before, after)) = line.split_once("--listen ") else { return format!("{line} --listen 127.0.0.1:0") };
    let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
    format!("{before}--listen 127.0.0.1:0 {rest}")
}

/// The names of the variables that a line sets, where it does nothing else.
fn sets(line: &str) -> Option<Vec<&str>> {
    let mut rest = without_comment(line);
    rest = rest.strip_prefix("export ").unwrap_or(rest).trim_start();
    let mut names = Vec::new();
    loop {
        let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let value = rest[name..].strip_prefix('=').filter(|_| name > 0)?;
        names.push(&rest[..name]);
        let end = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => value[1..].find(quote)? + 2,
            Some('$') if value.starts_with("$(") => value.find(')')? + 1,
            _ => value.find(char::is_whitespace).unwrap_or(value.len()),
        };
        rest = value[end..].trim_start();
        if rest.is_empty() {
            return Some(names);
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
        let quoted = "```sh\ncurl -d '{\n  \"a\": 1\n}'   # somebody's\nmemori up # isn't\n```\n";
        assert_eq!(lines(quoted), ["curl -d '{\n  \"a\": 1\n}'   # somebody's", "memori up # isn't"]);
    }

    #[test]
    fn comments_are_told_from_quoted_text() {
        for (line, command) in [
            ("memori up   # why", "memori up"),
            ("curl 'a # b' # c", "curl 'a # b'"),
            ("curl a#b", "curl a#b"),
            ("printf \"it's # one\"", "printf \"it's # one\""),
        ] {
            assert_eq!(without_comment(line), command);
        }
    }

    #[test]
    fn what_is_left_out_has_a_reason_and_is_in_its_page() {
        let left = left_out().unwrap();
        for LeftOut { page, command, reason } in &left {
            let text = std::fs::read_to_string(root().join(page)).unwrap();
            assert!(lines(&text).iter().any(|line| without_comment(line) == command), "{page} does not say {command:?}");
            assert!(reason.len() > 10, "{command}: why?");
        }
        assert!(left.len() <= 10, "{} commands are run by nothing: run some", left.len());
    }

    #[test]
    fn setting_is_told_from_doing() {
        for (line, names) in [
            ("a=1", vec!["a"]),
            ("export A_B=x C=y  # why", vec!["A_B", "C"]),
            ("key='authorization: Bearer k'", vec!["key"]),
            ("a=$b", vec!["a"]),
            ("export T=$(openssl rand -hex 32)     # the same", vec!["T"]),
        ] {
            assert_eq!(sets(line), Some(names), "{line}");
        }
        for line in ["A=1 memori up", "memori up", "echo a=1", "", "='x'", "a='x"] {
            assert_eq!(sets(line), None, "{line}");
        }
    }
}
