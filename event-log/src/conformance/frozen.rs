//! A member that sleeps through its lease: a process of its own, stopped with SIGSTOP and woken with SIGCONT.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::Provider;
use super::tools::{TOPIC, append, assigned, at, number, numbered, take, within};
use crate::seam::{AppendError, Commit, LogError, Start};

const ADDRESS: &str = "MEMORI_CONFORMANCE_FROZEN_MEMBER";
const MARK: &str = "frozen-member:";

/// A process that has lost its partition while it was stopped cannot append its results (where the provider fences appends) and
/// cannot move the group's offset. `test` is the path of the test that runs this case: it is run again as the process to stop.
pub async fn woken_from_sigstop<P: Provider>(test: &str) {
    if let Ok(address) = std::env::var(ADDRESS) {
        return frozen_member::<P>(&address).await;
    }
    let provider = P::fresh(1).await;
    let log = provider.connect().await;
    append(&*log, vec![numbered("k", 0)]).await;
    let (mut child, mut said) = spawn(test, &provider.address());
    assert_eq!(hear(&mut said).await, "holding 0");
    let pid = Pid::from_raw(i32::try_from(child.id().expect("running")).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::STOP).expect("stops");

    // Another member takes the partition over, does the work and commits it.
    let mut heir = log.subscribe("frozen", &[TOPIC]).await.expect("joins");
    let again = take(&mut *heir, 1).await;
    assert_eq!(number(&again[0]), 0, "what the sleeper had not committed comes again");
    let fence = heir.fence(at(0)).expect("it holds the partition");
    let results = log.producer().append(&[numbered("k", 1)], Some(&fence)).await;
    assert_eq!(results[0].as_ref().expect("the heir may append").offset, Some(1));
    let commit = Commit { metadata: "the heir's".to_owned(), ..Commit::at(at(0), 1) };
    heir.commit(&[commit]).await.expect("the heir may commit");

    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"go\n").await.expect("writes");
    kill_process(pid, Signal::CONT).expect("wakes");
    let appended = hear(&mut said).await;
    let committed = hear(&mut said).await;
    if P::FENCES_APPENDS {
        assert_eq!(appended, "append fenced");
        assert_eq!(log.watermarks(at(0)).await.expect("watermarks").1, 2, "the sleeper appended nothing");
    }
    assert_ne!(committed, "commit ok");
    drop(stdin);
    assert!(within("the process to end", child.wait()).await.expect("waits").success());

    // The group goes on where the heir committed, not where the sleeper wanted.
    heir.close(Duration::from_secs(10)).await;
    let mut next = log.subscribe("frozen", &[TOPIC]).await.expect("joins");
    assert_eq!(take(&mut *next, 1).await[0].offset, 1);
    assert_eq!(next.committed(at(0)).expect("committed").metadata, "the heir's");
    next.close(Duration::from_secs(10)).await;
}

fn spawn(test: &str, address: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let test = test.split_once("::").map_or(test, |(_, path)| path);
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(ADDRESS, address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let said = BufReader::new(child.stdout.take().expect("piped")).lines();
    (child, said)
}

async fn hear(said: &mut Lines<BufReader<ChildStdout>>) -> String {
    within("the process to say something", async {
        loop {
            let line = said.next_line().await.expect("reads").expect("it goes on");
            // The test harness writes on the same lines.
            if let Some((_, word)) = line.split_once(MARK) {
                return word.trim().to_owned();
            }
        }
    })
    .await
}

fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK} {word}").and_then(|()| out.flush()).expect("the other side listens");
}

/// The process that is stopped while it holds the partition.
async fn frozen_member<P: Provider>(address: &str) {
    let log = P::reach(address).await.connect().await;
    let mut consumer = log.subscribe("frozen", &[TOPIC]).await.expect("joins");
    assert_eq!(assigned(&mut *consumer).await, [at(0)]);
    consumer.assign(&[(at(0), Start::Committed)]).await.expect("assigns");
    let records = take(&mut *consumer, 1).await;
    let fence = consumer.fence(at(0)).expect("it holds the partition");
    say(&format!("holding {}", number(&records[0])));
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.expect("joins").expect("reads");
    match log.producer().append(&[numbered("k", 99)], Some(&fence)).await.remove(0) {
        Err(AppendError::Fenced(partition)) if partition == at(0) => say("append fenced"),
        result => say(&format!("append {result:?}")),
    }
    match consumer.commit(&[Commit { metadata: "the sleeper's".to_owned(), ..Commit::at(at(0), 0) }]).await {
        Ok(()) => say("commit ok"),
        Err(LogError::Fenced(_)) => say("commit fenced"),
        Err(e) => say(&format!("commit failed: {e}")),
    }
    P::crash(consumer).await;
}
