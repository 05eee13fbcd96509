//! Objects of a store, read as files are: in order, on a thread that may block.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use memori_service::objects::Objects;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use url::Url;

/// Bytes of an object that are asked for at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 2;
/// How often a piece that breaks off is got.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The most objects of one source.
const MAX_OBJECTS: usize = 100_000;

/// A URL without what lets in. Where it cannot be told what belongs to whom, only its scheme is shown.
#[must_use]
pub fn shown(url: &str) -> String {
    let hidden = || format!("{}://…", url.split_once("://").map_or("", |(scheme, _)| scheme));
    let Ok(mut plain) = Url::parse(url) else { return hidden() };
    let logs_in = !plain.username().is_empty() || plain.password().is_some();
    // A password may hold what ends a host; what stands behind it is not a path then.
    if plain.scheme().starts_with("postgres") && plain.path().contains('@') {
        return hidden();
    }
    if logs_in && (plain.set_username("").is_err() || plain.set_password(None).is_err()) {
        return hidden();
    }
    plain.set_query(None);
    plain.set_fragment(None);
    plain.into()
}

/// A URL as those read it who follow it, so that no spelling of it leads elsewhere than it seems to. `None`: it is no URL.
#[must_use]
pub fn plain(url: &str) -> Option<String> {
    Url::parse(url).ok().map(String::from)
}

/// Whether a name or password stands in front of a server's name. Nobody sends them on, and errors would quote them.
pub(crate) fn logs_in(url: &str) -> bool {
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    parsed.is_some_and(|url| !url.username().is_empty() || url.password().is_some())
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
    if place.only_get {
        return Ok(vec![probe(place).await?]);
    }
    match place.store.head(&place.prefix).await {
        Ok(object) => return Ok(vec![object]),
        Err(Error::NotFound { .. }) => {}
        Err(error) => return Err(told(&error)),
    }
    let listed = place.store.list(Some(&place.prefix));
    let mut objects: Vec<ObjectMeta> = listed.take(MAX_OBJECTS + 1).try_collect().await.map_err(|error| told(&error))?;
    if objects.len() > MAX_OBJECTS {
        return Err(io::Error::other(format!("there are over {MAX_OBJECTS} objects below it: import parts of it")));
    }
    objects.retain(|object| object.size > 0);
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(objects)
}

/// What is known of an object that may only be got: a URL that is signed for GET is good for no other method.
async fn probe(place: &Objects) -> io::Result<ObjectMeta> {
    let first = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
    match place.store.get_opts(&place.prefix, first).await {
        Ok(found) => Ok(found.meta),
        // The answer's head says it, and the rest of it is let go.
        Err(Error::NotSupported { .. }) => Ok(place.store.get(&place.prefix).await.map_err(|error| told(&error))?.meta),
        Err(error) => Err(told(&error)),
    }
}

/// An error of a store in our words: theirs quote what the server said, and what it says of a signature holds the signature.
fn told(error: &Error) -> io::Error {
    let why = match error {
        Error::NotFound { .. } => "there is no such object".to_owned(),
        Error::PermissionDenied { .. } => {
            "the store refuses to let it be read (403): the key, or what signed the URL, has no right, or not any more".to_owned()
        }
        Error::Unauthenticated { .. } => {
            "the store does not know who asks (401): give it a key by its provider's variables".to_owned()
        }
        other => status(&other.to_string()),
    };
    io::Error::other(why)
}

/// What a failed request says, up to the server's own words.
fn status(text: &str) -> String {
    const STATUS: &str = "status code: ";
    match text.split_once(STATUS) {
        Some((before, behind)) => format!("{before}{STATUS}{}", behind.split(':').next().unwrap_or_default().trim_end()),
        None => text.split("error response:").next().unwrap_or_default().trim_end().to_owned(),
    }
}

/// An object's bytes in order, got in pieces: however long it takes to read them, no request is long, and what a broken connection takes
/// away is one piece, which is got again.
pub(crate) struct ObjectReader {
    pieces: Receiver<io::Result<Bytes>>,
    held: Bytes,
}

impl ObjectReader {
    /// On a thread of a runtime. The object is the one that was found; another in its place is an error.
    pub(crate) fn open(store: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> Self {
        let (sender, pieces) = channel(PIECES_AHEAD);
        let getting = Getting { store: Arc::clone(store), object: object.clone() };
        Handle::current().spawn(async move {
            if let Err(error) = getting.all(&sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Self { pieces, held: Bytes::new() }
    }
}

struct Getting {
    store: Arc<dyn ObjectStore>,
    object: ObjectMeta,
}

impl Getting {
    /// Ends early where nobody wants more.
    async fn all(&self, out: &Sender<io::Result<Bytes>>) -> io::Result<()> {
        let mut at = 0;
        while at < self.object.size {
            let range = at..self.object.size.min(at + PIECE_BYTES);
            let length = range.end - range.start;
            let Some(piece) = self.piece(range).await? else { return self.whole(out).await };
            if piece.len() as u64 != length {
                return Err(io::Error::other(format!("the store gave {} bytes of {length}", piece.len())));
            }
            at += length;
            if out.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// `None`: the server knows no ranges.
    async fn piece(&self, range: Range<u64>) -> io::Result<Option<Bytes>> {
        let mut pause = FIRST_PAUSE;
        for tries_left in (0..TRIES).rev() {
            let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            // The store's client has tried again by itself what can be tried again, but for what breaks under way.
            let found = match self.store.get_opts(&self.object.location, options).await {
                Ok(found) => found,
                Err(Error::NotSupported { .. }) if range.start == 0 => return Ok(None),
                Err(error) => return Err(told(&error)),
            };
            self.same(&found.meta)?;
            match found.bytes().await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) if tries_left == 0 => return Err(told(&error)),
                Err(error) => tracing::debug!(error = %told(&error), "a piece of an object broke off and is got again"),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(io::Error::other("it breaks off again and again"))
    }

    /// In one answer. Where it breaks off, there is no way to go on within it.
    async fn whole(&self, out: &Sender<io::Result<Bytes>>) -> io::Result<()> {
        let found = self.store.get(&self.object.location).await.map_err(|error| told(&error))?;
        self.same(&found.meta)?;
        let mut stream = found.into_stream();
        while let Some(piece) = stream.next().await {
            if out.send(Ok(piece.map_err(|error| told(&error))?)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn same(&self, now: &ObjectMeta) -> io::Result<()> {
        let tags_differ = self.object.e_tag.is_some() && now.e_tag.is_some() && self.object.e_tag != now.e_tag;
        if tags_differ || self.object.size != now.size {
            return Err(io::Error::other("it has changed while it was read"));
        }
        Ok(())
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
    fn a_servers_words_are_left_out() {
        let text = "Generic S3 error: Error performing GET http://h/k in 1ms - Server returned non-2xx status code: 400 Bad Request: <X>secret</X>";
        assert!(status(text).ends_with("status code: 400 Bad Request"), "{}", status(text));
        assert_eq!(status("it broke - Server returned error response: secret"), "it broke - Server returned");
        assert_eq!(status("no connection"), "no connection");
    }

    #[test]
    fn a_url_is_what_it_leads_to() {
        for url in ["s3://b/a/../c", "s3://b/a/%2e%2E/c", "s3://b/a/./../c"] {
            assert_eq!(plain(url).as_deref(), Some("s3://b/c"), "{url}");
        }
        assert_eq!(plain("s3://b/a/..").as_deref(), Some("s3://b/"));
        assert_eq!(plain("https://h/a\\..\\c").as_deref(), Some("https://h/c"));
        assert_eq!(plain("a/b"), None);
    }

    #[test]
    fn names_and_passwords_are_seen_where_they_are_not_sent() {
        assert!(logs_in("https://me:secret@host/a") && logs_in("http://me@host/a"));
        assert!(!logs_in("https://host/me@a") && !logs_in("az://container@account.blob/a"));
    }

    #[test]
    fn a_url_is_shown_without_what_lets_in() {
        assert_eq!(shown("https://user:secret@host/a/b?sig=x#y"), "https://host/a/b");
        assert_eq!(shown("s3://bucket"), "s3://bucket");
        assert_eq!(shown("s3://bucket/a/"), "s3://bucket/a/");
        assert_eq!(shown("postgres://me:s3cret@host:5433/app?password=s3cret&sslmode=require"), "postgres://host:5433/app");
        assert_eq!(shown("postgres:///app?host=/run&user=me"), "postgres:///app");
        for url in ["postgres://me:s3/cret@host/app", "postgres://me:5/cret@host/app", "https://me:s3/cret@host/x"] {
            assert!(!shown(url).contains("cret"), "{}", shown(url));
        }
    }
}
