//! Kafka behind TLS and SASL: the whole system runs over it; a broker that is not the one that was meant, or a password that is not
//! right, ends a process within its start deadline with what to check, and no password is told to anybody.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use memori_tests::distributed::Distributed;
use memori_tests::process;
use memori_tests::servers::Servers;
use reqwest::StatusCode;
use serde_json::json;

const TENANT: &str = "tenant-a";
const USER: &str = "memori";
const PASSWORD: &str = "correct-horse-battery-staple";
const WRONG_PASSWORD: &str = "incorrect-horse-battery-staple";
const WITHIN: Duration = Duration::from_secs(90);
const START_DEADLINE_MS: &str = "4000";

/// Two authorities, and a broker's certificate of the first.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn make() -> anyhow::Result<Self> {
        let certificates = Self { dir: tempfile::Builder::new().prefix("memori-tls-").tempdir()? };
        let openssl = |arguments: &str| {
            let output = Command::new("openssl").args(arguments.split(' ')).current_dir(certificates.dir.path()).output()?;
            ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
            anyhow::Ok(())
        };
        for name in ["ca", "other-ca"] {
            openssl(&format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-{name} -keyout {name}.key -out {name}.pem"
            ))?;
        }
        openssl("req -newkey rsa:2048 -nodes -subj /CN=broker -keyout broker.key -out broker.csr")?;
        std::fs::write(certificates.path("broker.ext"), "subjectAltName=IP:127.0.0.1\n")?;
        openssl("x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile broker.ext -out broker.pem")?;
        let chain = ["broker.key", "broker.pem", "ca.pem"].map(|name| std::fs::read_to_string(certificates.path(name)));
        std::fs::write(certificates.path("keystore.pem"), chain.into_iter().collect::<Result<String, _>>()?)?;
        Ok(certificates)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The broker's properties: one listener with TLS, and one where clients also name themselves.
    fn overlay(&self) -> anyhow::Result<PathBuf> {
        let keystore = self.path("keystore.pem").display().to_string();
        let file = self.path("overlay.properties");
        std::fs::write(
            &file,
            format!(
                "listeners=PLAINTEXT://127.0.0.1:@PORT@,CONTROLLER://127.0.0.1:@CONTROLLER_PORT@,SSL://127.0.0.1:@PORT_1@,SASL_SSL://127.0.0.1:@PORT_2@\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:@PORT@,SSL://127.0.0.1:@PORT_1@,SASL_SSL://127.0.0.1:@PORT_2@\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL\n\
                 ssl.keystore.type=PEM\n\
                 ssl.keystore.location={keystore}\n\
                 sasl.enabled.mechanisms=SCRAM-SHA-512\n\
                 listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
            ),
        )?;
        Ok(file)
    }
}

/// A broker with its listeners and its user.
fn start() -> anyhow::Result<(Certificates, Servers)> {
    let certificates = Certificates::make()?;
    let servers = Servers::start_with_kafka(&certificates.overlay()?)?;
    let credential = format!("SCRAM-SHA-512=[password={PASSWORD}]");
    servers.kafka_tool(
        "kafka.admin.ConfigCommand",
        &[
            "--bootstrap-server",
            servers.kafka_brokers(),
            "--alter",
            "--add-config",
            &credential,
            "--entity-type",
            "users",
            "--entity-name",
            USER,
        ],
    )?;
    Ok((certificates, servers))
}

type Env = Vec<(&'static str, String)>;

fn over_tls(servers: &Servers, ca: &Path) -> anyhow::Result<Env> {
    Ok(vec![
        ("MEMORI__KAFKA__BROKERS", servers.kafka_listener("SSL")?),
        ("MEMORI__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "ssl".to_owned()),
        ("MEMORI__KAFKA__PROPERTIES__SSL_CA_LOCATION", ca.display().to_string()),
    ])
}

fn over_sasl(servers: &Servers, ca: &Path, password: &str) -> anyhow::Result<Env> {
    Ok(vec![
        ("MEMORI__KAFKA__BROKERS", servers.kafka_listener("SASL_SSL")?),
        ("MEMORI__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "sasl_ssl".to_owned()),
        ("MEMORI__KAFKA__PROPERTIES__SSL_CA_LOCATION", ca.display().to_string()),
        ("MEMORI__KAFKA__PROPERTIES__SASL_MECHANISM", "SCRAM-SHA-512".to_owned()),
        ("MEMORI__KAFKA__PROPERTIES__SASL_USERNAME", USER.to_owned()),
        ("MEMORI__KAFKA__PROPERTIES__SASL_PASSWORD", password.to_owned()),
    ])
}

/// Topics made, records appended, consumed and committed: an event of each of some entities comes out as facts.
async fn works(what: &str, servers: &Servers, env: &Env) -> anyhow::Result<()> {
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut shape = Distributed::start(servers, &[TENANT.to_owned()], 1, &env).await?;
    let api = shape.api(TENANT);
    let event_ids: Vec<String> = (0..12).map(|n| format!("evt-{n}")).collect();
    for (n, event_id) in event_ids.iter().enumerate() {
        let body = json!({"event_id": event_id, "entity_id": format!("user-{n}"), "messages": [{"role": "user", "content": "I like tea."}]});
        let answer = api.post("/v1/events", &body).await?;
        ensure!(answer.status == StatusCode::ACCEPTED && answer.body["durable_in"] == "log", "{what}: {}", answer.body);
    }
    api.wait_final(&event_ids, WITHIN).await.with_context(|| what.to_owned())?;
    // An orderly stop commits; its successor goes on behind it.
    let stopped = tokio::task::block_in_place(|| shape.workers[0].stop())?;
    ensure!(stopped.success(), "{what}: {stopped}\n{}", shape.workers[0].log_text());
    for process in [&shape.ingest, &shape.writer, &shape.workers[0]] {
        ensure!(!process.log_text().contains(PASSWORD), "{what}: a password is in a log");
    }
    Ok(())
}

/// Runs a program that cannot reach its log until it gives up.
async fn give_up(binary: &str, args: &[&str], postgres: &str, env: &Env) -> anyhow::Result<(Output, Duration)> {
    let mut command = tokio::process::Command::new(process::binary(binary)?);
    command.args(args).env_clear().kill_on_drop(true);
    command.env("MEMORI__START__DEADLINE_MS", START_DEADLINE_MS).env("MEMORI__ADMIN__LISTEN", "127.0.0.1:0");
    command.env("MEMORI__INGEST__LISTEN", "127.0.0.1:0").env("MEMORI__WRITER__LISTEN", "127.0.0.1:0");
    command.env("MEMORI__POSTGRES__URL", postgres).envs(env.iter().map(|(name, value)| (*name, value)));
    let since = Instant::now();
    let output = tokio::time::timeout(WITHIN, command.output()).await.with_context(|| format!("{binary} goes on for ever"))??;
    Ok((output, since.elapsed()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_runs_over_tls_and_sasl() -> anyhow::Result<()> {
    let (certificates, servers) = tokio::task::block_in_place(start)?;
    works("tls", &servers, &over_tls(&servers, &certificates.path("ca.pem"))?).await?;
    works("sasl", &servers, &over_sasl(&servers, &certificates.path("ca.pem"), PASSWORD)?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_named_and_no_password_is_told() -> anyhow::Result<()> {
    let (certificates, servers) = tokio::task::block_in_place(start)?;
    let database = servers.fresh_database().await?;
    let other = certificates.path("other-ca.pem");
    let (wrong_ca, wrong_password) =
        (over_tls(&servers, &other)?, over_sasl(&servers, &certificates.path("ca.pem"), WRONG_PASSWORD)?);
    let programs: [(&str, &[&str]); 4] =
        [("memori-ingest", &[]), ("memori-augment-worker", &[]), ("memori-writer", &[]), ("memori", &["topics", "create"])];
    for (env, said) in [(&wrong_ca, "certificate"), (&wrong_password, "sasl_password")] {
        for (binary, args) in programs {
            let (output, took) = give_up(binary, args, &database, env).await?;
            let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let code = output.status.code();
            ensure!(matches!(code, Some(2 | 75)), "{binary} ended with {code:?} for a {said}:\n{text}");
            // What it ends with is the line that begins with its name; the client library's own threads may still log behind it.
            let ending = text.lines().rfind(|line| line.starts_with(&format!("{binary}: "))).unwrap_or_default();
            ensure!(ending.contains(said), "{binary} does not name the {said}:\n{text}");
            ensure!(took < Duration::from_secs(15), "{binary} took {took:?} to give up");
            ensure!(!text.contains(WRONG_PASSWORD), "{binary} tells the password:\n{text}");
        }
    }
    let missing = over_tls(&servers, &certificates.path("nowhere.pem"))?;
    let (output, _) = give_up("memori-augment-worker", &[], &database, &missing).await?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2) && text.contains("ssl.ca.location"), "{:?}: {text}", output.status);
    Ok(())
}
