//! Objects of a store, read as files are: in order, on a thread that may block.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use memori_service::objects::Objects;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::oneshot;

/// Pieces of an object that are read ahead.
const PIECES_AHEAD: usize = 8;
/// The most objects of one source.
const MAX_OBJECTS: usize = 100_000;

/// A URL without what lets in.
pub(crate) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or(url);
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
            let host = host.rsplit('@').next().unwrap_or(host);
            format!("{scheme}://{host}{}{path}", if rest.contains('/') { "/" } else { "" })
        }
        None => plain.to_owned(),
    }
}

/// The object at a place, or all below it, by name. Blocks, on a thread of a runtime that may.
pub(crate) fn found(place: &Objects) -> io::Result<Vec<ObjectMeta>> {
    let (sender, receiver) = oneshot::channel();
    let place = place.clone();
    Handle::current().spawn(async move {
        let _ = sender.send(look(&place).await);
    });
    receiver.blocking_recv().map_err(io::Error::other)?
}

async fn look(place: &Objects) -> io::Result<Vec<ObjectMeta>> {
    match place.store.head(&place.prefix).await {
        Ok(object) => return Ok(vec![object]),
        Err(Error::NotFound { .. }) => {}
        Err(error) => return Err(io::Error::other(error)),
    }
    let listed = place.store.list(Some(&place.prefix));
    let mut objects: Vec<ObjectMeta> = listed.take(MAX_OBJECTS + 1).try_collect().await.map_err(io::Error::other)?;
    if objects.len() > MAX_OBJECTS {
        return Err(io::Error::other(format!("there are over {MAX_OBJECTS} objects below it: import parts of it")));
    }
    objects.retain(|object| object.size > 0);
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(objects)
}

/// An object's bytes in order. A connection that breaks is taken up again by the store's client.
pub(crate) struct ObjectReader {
    pieces: Receiver<io::Result<Bytes>>,
    held: Bytes,
}

impl ObjectReader {
    /// On a thread of a runtime.
    pub(crate) fn open(store: &Arc<dyn ObjectStore>, path: &Path) -> Self {
        let (sender, pieces) = channel(PIECES_AHEAD);
        let (store, path) = (Arc::clone(store), path.clone());
        Handle::current().spawn(async move {
            let mut stream = match store.get(&path).await {
                Ok(found) => found.into_stream(),
                Err(error) => {
                    let _ = sender.send(Err(io::Error::other(error))).await;
                    return;
                }
            };
            while let Some(piece) = stream.next().await {
                if sender.send(piece.map_err(io::Error::other)).await.is_err() {
                    return;
                }
            }
        });
        Self { pieces, held: Bytes::new() }
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.held.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.held = piece?,
                None => return Ok(0),
            }
        }
        let taken = self.held.split_to(self.held.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_lets_in() {
        assert_eq!(shown("https://user:secret@host/a/b?sig=x#y"), "https://host/a/b");
        assert_eq!(shown("s3://bucket"), "s3://bucket");
        assert_eq!(shown("s3://bucket/a/"), "s3://bucket/a/");
    }
}
