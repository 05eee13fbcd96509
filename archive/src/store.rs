//! The archive as a store of objects: manifests, put where nothing is yet, and the files that they name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use memori_event_log::LogRecord;
use memori_service::objects::{Objects, ObjectsError};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _, PutMode, PutOptions};
use sha2::{Digest as _, Sha256};

use crate::file;
use crate::manifest::{DataFile, Manifest, VERSION};
use crate::place::{self, Place};

/// Files that are read or put at the same time.
pub(crate) const AT_ONCE: usize = 16;

/// Why the archive did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It may work later.
    #[error("the archive is not reachable: {0}")]
    Away(String),
    /// There is no such object.
    #[error("the archive has no {0}")]
    Missing(String),
    /// What lies there cannot be right, or may not be reached: says what.
    #[error("the archive cannot be used: {0}")]
    Broken(String),
}

impl From<ObjectsError> for ArchiveError {
    fn from(error: ObjectsError) -> Self {
        Self::Broken(error.to_string())
    }
}

fn failed(error: Error) -> ArchiveError {
    match &error {
        Error::NotFound { path, .. } => ArchiveError::Missing(path.clone()),
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => ArchiveError::Broken(error.to_string()),
        _ => ArchiveError::Away(error.to_string()),
    }
}

/// A manifest as a listing tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where its range begins.
    pub from: i64,
    /// The highest revision.
    pub revision: u32,
}

/// What came of a put where nothing was to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is there.
    Done,
    /// Something is.
    Taken,
}

/// A range's records, and which they are: place, first offset, revision.
type Decoded = (Place, i64, u32, Arc<Vec<LogRecord>>);

/// An archive.
#[derive(Debug)]
pub struct Archive {
    objects: Objects,
    /// What was decoded last: who reads page after page decodes once.
    last: Mutex<Option<Decoded>>,
}

impl Archive {
    /// Opens what `archive.url` names; a folder is made where it is missing.
    ///
    /// # Errors
    /// A URL that names nothing usable.
    pub fn open(url: &str) -> Result<Self, ArchiveError> {
        Ok(Self { objects: Objects::open(url)?, last: Mutex::new(None) })
    }

    async fn get(&self, name: &str) -> Result<Bytes, ArchiveError> {
        let path = self.objects.path(name);
        self.objects.store.get(&path).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    /// Names below a folder, with their sizes.
    pub(crate) async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, ArchiveError> {
        let prefix = self.objects.path(folder);
        let below = |location: &Path| {
            let parts = location.prefix_match(&self.objects.prefix)?;
            Some(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"))
        };
        let found: Vec<(Option<String>, u64)> = self
            .objects
            .store
            .list(Some(&prefix))
            .map_ok(|meta| (below(&meta.location), meta.size))
            .try_collect()
            .await
            .map_err(failed)?;
        Ok(found.into_iter().filter_map(|(name, size)| Some((name?, size))).collect())
    }

    /// The manifests of a partition, in order; of each the highest revision.
    ///
    /// # Errors
    /// It is away.
    pub async fn chain(&self, place: &Place) -> Result<Vec<Link>, ArchiveError> {
        let mut chain: BTreeMap<i64, u32> = BTreeMap::new();
        for (name, _) in self.list(&place.folder()).await? {
            if let Some((from, revision)) = name.rsplit('/').next().and_then(place::of_manifest) {
                let highest = chain.entry(from).or_default();
                *highest = (*highest).max(revision);
            }
        }
        Ok(chain.into_iter().map(|(from, revision)| Link { from, revision }).collect())
    }

    /// A manifest.
    ///
    /// # Errors
    /// It is not there, or not one of this version.
    pub async fn manifest(&self, place: &Place, link: Link) -> Result<Manifest, ArchiveError> {
        let name = place.manifest(link.from, link.revision);
        let bytes = self.get(&name).await?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| ArchiveError::Broken(format!("{name} is no manifest: {e}")))?;
        if manifest.version != VERSION {
            let version = manifest.version;
            return Err(ArchiveError::Broken(format!(
                "{name} is of version {version}, this program reads {VERSION}; upgrade first"
            )));
        }
        if manifest.place != *place || manifest.from != link.from || manifest.to <= manifest.from {
            return Err(ArchiveError::Broken(format!("{name} says that it is another one")));
        }
        Ok(manifest)
    }

    /// A manifest by the folder that it lies in.
    pub(crate) async fn manifest_at(&self, folder: &str, link: Link) -> Result<Manifest, ArchiveError> {
        let name = format!("{folder}/{:020}.{:06}.json", link.from, link.revision);
        let bytes = self.get(&name).await?;
        serde_json::from_slice(&bytes).map_err(|e| ArchiveError::Broken(format!("{name} is no manifest: {e}")))
    }

    /// The manifest that begins at `from`, in its highest revision.
    pub(crate) async fn beginning_at(&self, place: &Place, from: i64) -> Result<Option<Manifest>, ArchiveError> {
        let mut found = None;
        for revision in 0.. {
            match self.manifest(place, Link { from, revision }).await {
                Ok(manifest) => found = Some(manifest),
                Err(ArchiveError::Missing(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The last manifest of a partition; where the next one begins is its `to`.
    ///
    /// # Errors
    /// It is away.
    pub async fn last(&self, place: &Place) -> Result<Option<Manifest>, ArchiveError> {
        match self.chain(place).await?.last() {
            Some(link) => self.manifest(place, *link).await.map(Some),
            None => Ok(None),
        }
    }

    /// Puts a manifest where nothing is yet.
    pub(crate) async fn put_manifest(&self, manifest: &Manifest) -> Result<Put, ArchiveError> {
        let path = self.objects.path(&manifest.place.manifest(manifest.from, manifest.revision));
        let bytes = serde_json::to_vec(manifest).map_err(|e| ArchiveError::Broken(e.to_string()))?;
        let options = PutOptions::from(PutMode::Create);
        match self.objects.store.put_opts(&path, bytes.into(), options).await {
            Ok(_) => Ok(Put::Done),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Put::Taken),
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes a data file of these records, which are one tenant's and one day's.
    pub(crate) async fn put_records(
        &self,
        path: String,
        tenant: String,
        day: String,
        records: Vec<LogRecord>,
    ) -> Result<DataFile, ArchiveError> {
        let count = records.len() as u64;
        let encoding = tokio::task::spawn_blocking(move || file::encode(&records));
        let bytes = encoding.await.map_err(|e| ArchiveError::Broken(format!("encoding a file: {e}")))??;
        let file = DataFile {
            path,
            tenant,
            day,
            records: count,
            bytes: bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(&bytes)),
        };
        self.objects.store.put(&self.objects.path(&file.path), bytes.into()).await.map_err(failed)?;
        Ok(file)
    }

    /// The records of a data file, in order.
    pub(crate) async fn file(&self, place: &Place, file: &DataFile) -> Result<Vec<LogRecord>, ArchiveError> {
        let source = place.source().ok_or_else(|| ArchiveError::Broken(format!("{} is no topic of ours", place.topic)))?;
        let bytes = self.get(&file.path).await?;
        let (path, sha256, count) = (file.path.clone(), file.sha256.clone(), file.records);
        let decoding = tokio::task::spawn_blocking(move || {
            if hex::encode(Sha256::digest(&bytes)) != sha256 {
                return Err(ArchiveError::Broken(format!("{path} is not what its manifest says: its checksum is another one")));
            }
            let records = file::decode(&bytes, source)?;
            if records.len() as u64 != count {
                return Err(ArchiveError::Broken(format!("{path} has {} records, its manifest says {count}", records.len())));
            }
            Ok(records)
        });
        decoding.await.map_err(|e| ArchiveError::Broken(format!("decoding a file: {e}")))?
    }

    async fn file_unless_dropped(&self, place: &Place, file: &DataFile) -> Result<Vec<LogRecord>, ArchiveError> {
        match self.file(place, file).await {
            Err(ArchiveError::Missing(_)) if self.is_dropped(&file.tenant).await? => Ok(Vec::new()),
            read => read,
        }
    }

    /// All records of a manifest, in the order of their offsets. Files of tenants that were dropped from the archive are passed over.
    ///
    /// # Errors
    /// It is away, or what lies there is not what the manifest says.
    pub async fn records(&self, manifest: &Manifest) -> Result<Arc<Vec<LogRecord>>, ArchiveError> {
        {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((place, from, revision, records)) = &*last
                && (place, *from, *revision) == (&manifest.place, manifest.from, manifest.revision)
            {
                return Ok(records.clone());
            }
        }
        let mut reading = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            reading.push(self.file_unless_dropped(&manifest.place, file).boxed());
        }
        let files: Vec<Vec<LogRecord>> = futures::stream::iter(reading).buffered(AT_ONCE).try_collect().await?;
        let mut records: Vec<LogRecord> = files.into_iter().flatten().collect();
        records.sort_by_key(|record| record.offset);
        let outside = records.iter().any(|record| record.offset < manifest.from || record.offset >= manifest.to);
        if outside || records.windows(2).any(|two| two[0].offset == two[1].offset) {
            let place = manifest.place.folder();
            return Err(ArchiveError::Broken(format!(
                "the files of {place} from {} hold records of another range",
                manifest.from
            )));
        }
        let records = Arc::new(records);
        let last = Some((manifest.place.clone(), manifest.from, manifest.revision, records.clone()));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        Ok(records)
    }

    /// Where the marker of a tenant lies that was dropped.
    fn dropped(tenant: &str) -> String {
        format!("dropped/{}", place::plain(tenant))
    }

    async fn is_dropped(&self, tenant: &str) -> Result<bool, ArchiveError> {
        match self.get(&Self::dropped(tenant)).await {
            Ok(_) => Ok(true),
            Err(ArchiveError::Missing(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops all that is archived of a tenant so far: its folder. What comes later is archived again. Answers how many files went.
    ///
    /// # Errors
    /// It is away; repeating it goes on.
    pub async fn drop_tenant(&self, tenant: &str) -> Result<u64, ArchiveError> {
        let marker = self.objects.path(&Self::dropped(tenant));
        self.objects.store.put(&marker, Bytes::new().into()).await.map_err(failed)?;
        let files = self.list(&place::tenant_folder(tenant)).await?;
        for (name, _) in &files {
            self.delete(name).await?;
        }
        Ok(files.len() as u64)
    }

    /// Deletes an object; one that is gone is no error.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), ArchiveError> {
        match self.objects.store.delete(&self.objects.path(name)).await.map_err(failed) {
            Err(ArchiveError::Missing(_)) => Ok(()),
            ended => ended,
        }
    }
}
