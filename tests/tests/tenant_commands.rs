//! What `docs/tenants.md` tells an operator to type, typed: each line of its shell blocks runs as it stands, against a running system.

use anyhow::{Context as _, ensure};
use memori_tests::documents::{self, Shell};
use memori_tests::embedded::Embedded;
use memori_tests::keys::Keys;

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_document_runs() -> anyhow::Result<()> {
    let shape = Embedded::start(&["in-the-file".to_owned()], &[])?;
    let folder = tempfile::tempdir()?;
    let place = folder.path().to_owned();
    let mut shell = Shell::new(&place)?.with("MEMORI_API_URL", &shape.process.api()).with("MEMORI_API_KEY", Keys::OPERATOR);
    tokio::task::spawn_blocking(move || {
        let mut newest: Option<String> = None;
        let lines = documents::page("docs/tenants.md")?;
        ensure!(lines.len() > 15, "{lines:?}");
        for line in &lines {
            // The document's key stands for the one that was made last.
            let typed = match &newest {
                Some(key_id) => line.replace("0123456789abcdef", key_id),
                None => line.clone(),
            };
            let output = shell.run(&typed)?;
            let (out, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.success(), "{typed}: {}: {told}", output.status);
            let shown = out.trim();
            if line.starts_with("memori key create") || line.starts_with("memori key rotate") {
                // The key alone, so that a script can take it.
                ensure!(shown.len() == 84 && shown.starts_with("mk_") && !told.contains(shown), "{typed}: {out}");
                newest = Some(shown[3..19].to_owned());
            } else {
                ensure!(!out.contains("mk_"), "{typed} shows a key: {out}");
            }
            if line.contains("key list") {
                ensure!(shown.contains("support bot") && shown.contains("active"), "{typed}: {out}");
            }
            if line.contains("quota show") {
                ensure!(shown.contains("events_per_second    200") && shown.contains("stored_facts         none"), "{out}");
            }
            if line.contains("audit") {
                ensure!(
                    ["tenant.create", "key.rotate", "key.revoke", "quotas.set"].iter().all(|act| shown.contains(act)),
                    "{out}"
                );
            }
            // What is not written to a file is read by scripts, too.
            if line.starts_with("memori ")
                && !line.contains('>')
                && !line.contains("--csv")
                && !["create", "rotate", "revoke"].iter().any(|verb| line.contains(verb))
            {
                let output = shell.run(&format!("{typed} --json"))?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                for json in text.lines() {
                    serde_json::from_str::<serde_json::Value>(json).with_context(|| format!("{typed} --json: {text}"))?;
                }
            }
        }
        ensure!(std::fs::read_to_string(place.join("usage.csv"))?.starts_with("tenant,day,events"));
        ensure!(std::fs::read_to_string(place.join("keys.toml"))?.contains("tenant = \"*\""));
        // Refused in words, with the status that scripts go by.
        let refused = shell.run("memori tenant create acme")?;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(2) && told.contains("409"), "{}: {told}", refused.status);
        anyhow::Ok(())
    })
    .await?
}
