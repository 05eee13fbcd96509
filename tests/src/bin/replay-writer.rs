//! A writer that can be killed: `replay-writer STORE SEED FLUSHES` writes so many batches of a replay from where the store stands.

use anyhow::Context as _;
use memori_tests::replay::{self, Replay};
use memori_tests::storm::tell;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().context("usage: replay-writer STORE SEED FLUSHES");
    let (store, seed, flushes) = (argument()?, argument()?.parse()?, argument()?.parse::<usize>()?);
    let replay = Replay::new(seed);
    let store = replay::open(&store).await?;
    let mut writer = replay.writer(store.clone()).await?;
    for _ in 0..flushes {
        let stand = replay.stand(&*store).await?;
        let Some(next) = replay.next(&stand)? else { break };
        tell(&format!("flush {next}"));
        let ended = writer.flush(&replay, next).await?;
        tell(&format!("ended {ended:?}"));
    }
    Ok(())
}
