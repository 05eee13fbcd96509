//! No page may tell people to type what nobody has typed: each page with commands is given to a test that runs them ([`documents::page`],
//! or `docs.py` for compose and Kubernetes), and each command that a sentence names is one of our programs' own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use memori_tests::documents::{self, root};
use memori_tests::process::binary;

/// Every page, by its path from the root.
fn pages() -> anyhow::Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![root().join("docs")];
    let mut files: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "ingest/python/README.md"].iter().map(|file| root().join(file)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    for file in files {
        let name = file.strip_prefix(root())?.display().to_string();
        pages.insert(name, std::fs::read_to_string(&file)?);
    }
    Ok(pages)
}

/// The files that may hold a test of a page, as one text.
fn tests() -> anyhow::Result<String> {
    let mut all = String::new();
    for (folder, extension) in [("tests/tests", "rs"), ("ops/platform", "py")] {
        for entry in std::fs::read_dir(root().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension)
                && !path.ends_with(file!().rsplit('/').next().unwrap_or_default())
            {
                all += &std::fs::read_to_string(path)?;
            }
        }
    }
    Ok(all)
}

#[test]
fn every_page_with_commands_is_run_by_a_test() -> anyhow::Result<()> {
    let tests = tests()?;
    let left = documents::left_out()?;
    let mut with = 0;
    for (name, text) in pages()? {
        let mut fences = text.lines().filter_map(|line| line.trim().strip_prefix("```"));
        let other = fences.find(|fence| ["bash", "shell", "console", "zsh"].contains(fence));
        ensure!(other.is_none(), "{name}: a block of {other:?} is run by nothing: make it one of \"sh\"");
        let lines = documents::lines(&text);
        let to_run = lines.iter().filter(|line| {
            let command = documents::without_comment(line);
            !left.iter().any(|left| left.page == name && left.command == command)
        });
        if to_run.count() == 0 {
            continue;
        }
        with += 1;
        let constant = format!("= \"{name}\"");
        let run =
            [format!("page(\"{name}\")"), format!("run(\"{name}\""), constant].iter().any(|call| tests.contains(call.as_str()));
        ensure!(run, "{name} has commands, and no test says page({name:?}): run them, or name them in tests/left_out.json");
    }
    ensure!(with >= 15, "only {with} pages have commands");
    Ok(())
}

/// The words of `memori …` in the text between backticks.
fn named(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        for code in line.split('`').skip(1).step_by(2).filter(|_| !fenced) {
            if let Some(words) = code.strip_prefix("memori ") {
                found.push(
                    words.split_whitespace().map(|word| word.trim_matches(|c| ",.;:[]()|".contains(c)).to_owned()).collect(),
                );
            }
        }
    }
    found
}

/// The help of a command, where there is one.
fn help(memori: &Path, command: &[&str]) -> anyhow::Result<Option<String>> {
    let output = Command::new(memori).args(command).arg("--help").output()?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn commands_that_sentences_name_are_there_with_their_flags() -> anyhow::Result<()> {
    let memori = binary("memori")?;
    let mut seen = 0;
    for (name, text) in pages()? {
        for words in named(&text) {
            // The longest beginning that is a command, up to what stands for something.
            let plain = words
                .iter()
                .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-'));
            let mut command: Vec<&str> = plain.map(String::as_str).collect();
            let flags: Vec<&String> = words.iter().filter(|word| word.starts_with("--")).collect();
            if command.is_empty() && flags.is_empty() {
                continue;
            }
            let help = loop {
                match help(&memori, &command)? {
                    Some(help) => break help,
                    // The last may be a value.
                    None if command.len() > 1 => drop(command.pop()),
                    None => anyhow::bail!("{name} names `memori {}`, which there is not", words.join(" ")),
                }
            };
            // A group's help names its commands; a value after a group would be a command that there is not.
            let rest = words.get(command.len()).filter(|word| !word.starts_with('-') && !command.is_empty());
            ensure!(
                rest.is_none() || !help.contains("<COMMAND>") || rest.is_some_and(|word| word.contains(['…', '|'])),
                "{name} names `memori {}`, which there is not",
                words.join(" ")
            );
            let general = flags_of_all(&memori)?;
            for flag in flags {
                let flag = flag.split('=').next().context("a flag")?;
                ensure!(help.contains(flag) || general.contains(flag), "{name}: `memori {}` has no {flag}", words.join(" "));
            }
            seen += 1;
        }
    }
    ensure!(seen > 20, "only {seen} are named");
    Ok(())
}

#[test]
fn targets_and_scripts_that_sentences_name_are_there() -> anyhow::Result<()> {
    let makefile = std::fs::read_to_string(root().join("Makefile"))?;
    let mut seen = 0;
    for (name, text) in pages()? {
        for code in text.split('`').skip(1).step_by(2).filter(|code| !code.contains('\n')) {
            let mut words = code.split_whitespace();
            match (words.next(), words.next()) {
                (Some("make"), Some(target)) => {
                    ensure!(makefile.lines().any(|line| line.starts_with(&format!("{target}:"))), "{name}: there is no `{code}`");
                }
                (Some(script), _) if script.starts_with("ops/") => {
                    ensure!(root().join(script).exists(), "{name}: there is no {script}");
                }
                _ => continue,
            }
            seen += 1;
        }
    }
    ensure!(seen > 10, "only {seen} are named");
    Ok(())
}

/// Flags that every command has.
fn flags_of_all(memori: &Path) -> anyhow::Result<String> {
    help(memori, &[])?.context("memori has a help")
}
