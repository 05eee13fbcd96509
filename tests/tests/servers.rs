//! The harness itself: servers that can be killed, come back with what they had, and leave nothing behind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use memori_tests::Servers;

async fn count(url: &str) -> Result<i64> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let driving = tokio::spawn(connection);
    let count = client.query_one("select count(*) from kept", &[]).await?.get(0);
    drop(client);
    driving.await??;
    Ok(count)
}

#[tokio::test(flavor = "multi_thread")]
async fn own_servers_survive_kills_and_leave_nothing_behind() -> Result<()> {
    let servers = tokio::task::spawn_blocking(Servers::start).await??;
    let folder = servers.folder().context("these are its own")?.to_path_buf();
    servers.administer("create table kept as select 1 as n").await?;
    let url = servers.postgres_url().to_owned();
    let servers = tokio::task::spawn_blocking(move || -> Result<Servers> {
        servers.kill_postgres()?;
        servers.kill9_kafka()?;
        servers.restart_postgres()?;
        servers.restart_kafka()?;
        Ok(servers)
    })
    .await??;
    ensure!(count(&url).await? == 1);
    let kafka = servers.kafka_brokers().to_owned();
    tokio::task::spawn_blocking(move || drop(servers)).await?;
    ensure!(!folder.exists(), "{} is still there", folder.display());
    ensure!(tokio::net::TcpStream::connect(&kafka).await.is_err(), "Kafka still listens");
    ensure!(tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err(), "Postgres still listens");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_on_shared_servers_do_not_see_each_other() -> Result<()> {
    let servers = tokio::task::spawn_blocking(Servers::shared).await??;
    ensure!(servers.fresh_prefix() != servers.fresh_prefix());
    let (one, two) = (servers.empty_database().await?, servers.empty_database().await?);
    let (client, connection) = tokio_postgres::connect(&one, tokio_postgres::NoTls).await?;
    let driving = tokio::spawn(connection);
    client.batch_execute("create extension vector; create table kept as select '[1,2]'::vector as v").await?;
    ensure!(count(&one).await? == 1);
    ensure!(count(&two).await.is_err(), "a table of another test's database is seen");
    // copies of one migrated database
    let (one, two) = tokio::try_join!(servers.fresh_database(), servers.fresh_database())?;
    ensure!(one != two);
    for url in [one, two] {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        let driving = tokio::spawn(connection);
        ensure!(client.query_one("select count(*) from memori.events", &[]).await?.get::<_, i64>(0) == 0);
        drop(client);
        driving.await??;
    }
    drop(client);
    tokio::time::timeout(Duration::from_secs(10), driving).await???;
    Ok(())
}
