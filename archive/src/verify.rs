//! Looks an archive through: chains without holes, files as their manifests say, each record once; and what no manifest names.

use std::collections::{BTreeMap, BTreeSet};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use crate::manifest::Manifest;
use crate::place::{DATA, MANIFESTS, Place};
use crate::store::{AT_ONCE, Archive, ArchiveError, Link};

/// How far a partition is archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Which partition.
    #[serde(flatten)]
    pub place: Place,
    /// Its first archived offset.
    pub from: i64,
    /// One past the last.
    pub to: i64,
    /// Manifests.
    pub manifests: usize,
    /// Records in their files.
    pub records: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// By partition.
    pub partitions: Vec<Standing>,
    /// What is wrong, in words.
    pub wrong: Vec<String>,
    /// Files that no manifest names: left by who ended half way.
    pub unnamed: Vec<String>,
}

/// The partitions of which there are manifests.
async fn places(archive: &Archive) -> Result<BTreeMap<String, Vec<Link>>, ArchiveError> {
    let mut found: BTreeMap<String, BTreeMap<i64, u32>> = BTreeMap::new();
    for (name, _) in archive.list(MANIFESTS).await? {
        let Some((folder, file)) = name.rsplit_once('/') else { continue };
        if let Some((from, revision)) = crate::place::of_manifest(file) {
            let highest = found.entry(folder.to_owned()).or_default().entry(from).or_default();
            *highest = (*highest).max(revision);
        }
    }
    let links = |chain: BTreeMap<i64, u32>| chain.into_iter().map(|(from, revision)| Link { from, revision }).collect();
    Ok(found.into_iter().map(|(folder, chain)| (folder, links(chain))).collect())
}

/// Looks through manifests; with `files`, through the data files too.
///
/// # Errors
/// It is away.
pub async fn verify(archive: &Archive, files: bool) -> Result<Findings, ArchiveError> {
    let mut findings = Findings::default();
    let mut named: BTreeSet<String> = BTreeSet::new();
    for (folder, chain) in places(archive).await? {
        let mut reading = Vec::with_capacity(chain.len());
        for link in chain {
            reading.push(archive.manifest_at(&folder, link).boxed());
        }
        let manifests: Vec<Manifest> = futures::stream::iter(reading).buffered(AT_ONCE).try_collect().await?;
        let (Some(first), Some(last)) = (manifests.first(), manifests.last()) else { continue };
        for two in manifests.windows(2) {
            if two[0].to != two[1].from {
                findings.wrong.push(format!("{folder}: a range ends at {}, the next begins at {}", two[0].to, two[1].from));
            }
        }
        for manifest in &manifests {
            named.extend(manifest.files.iter().map(|file| file.path.clone()));
            if files && let Err(error) = archive.records(manifest).await {
                findings.wrong.push(format!("{folder} from {}: {error}", manifest.from));
            }
        }
        findings.partitions.push(Standing {
            place: first.place.clone(),
            from: first.from,
            to: last.to,
            manifests: manifests.len(),
            records: manifests.iter().map(Manifest::records).sum(),
            bytes: manifests.iter().map(Manifest::bytes).sum(),
        });
    }
    let present = archive.list(DATA).await?;
    findings.unnamed = present.into_iter().map(|(name, _)| name).filter(|name| !named.contains(name)).collect();
    Ok(findings)
}

/// Removes files that no manifest names. No archiver may be at work: what it is about to name would go.
///
/// # Errors
/// It is away.
pub async fn clean(archive: &Archive, findings: &Findings) -> Result<usize, ArchiveError> {
    for name in &findings.unnamed {
        archive.delete(name).await?;
    }
    Ok(findings.unnamed.len())
}
