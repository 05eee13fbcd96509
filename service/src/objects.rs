//! Folders and object stores by URL, with OpenSSL as their cryptography.
//!
//! Promises: what a put has answered is durable, in a folder too; how to reach a bucket (keys, region, endpoint) is told by the
//! provider's own variables (`AWS_…`, `GOOGLE_…`, `AZURE_…`), so that no key stands in a URL.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    CryptoProvider, DigestAlgorithm, DigestContext, HmacContext, HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse,
    HttpService, ReqwestConnector, Signer, SigningAlgorithm,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, Error, ObjectStore, ObjectStoreScheme};
use openssl::error::ErrorStack;
use openssl::hash::{DigestBytes, Hasher, MessageDigest};
use openssl::pkey::{PKey, Private};
use url::Url;

/// Why a place cannot be used: the text says what to change.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {why}")]
pub struct ObjectsError {
    /// Without what lets in.
    url: String,
    why: String,
}

/// How long a server may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// A store, and where in it everything lies.
#[derive(Clone, Debug)]
pub struct Objects {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// In front of every name.
    pub prefix: Path,
    /// The URL is signed, or has another query: it is good for getting this one object, and for nothing else.
    pub only_get: bool,
}

impl Objects {
    /// Opens `s3://BUCKET/PREFIX`, `gs://…`, `az://…`, `http(s)://…`, `file:///FOLDER`, or a folder by its path, which is made where it is
    /// missing. An `http(s)` URL with a query is asked for as it stands, whoever's host it is: who made it has signed it.
    ///
    /// # Errors
    /// A URL that names none of these, a folder that cannot be made, or a setting that the provider's client refuses.
    pub fn open(url: &str) -> Result<Self, ObjectsError> {
        // Those who refuse a URL like to quote it, its secrets with it.
        let failed = |why: &dyn std::fmt::Display| {
            let why = why.to_string();
            let quoted = Url::parse(url).is_ok_and(|parsed| why.contains(parsed.as_str()));
            ObjectsError {
                url: shown(url),
                why: if quoted || why.contains(url) { "it is not understood".to_owned() } else { why },
            }
        };
        let Ok(parsed) = Url::parse(url) else { return Self::folder(PathBuf::from(url)).map_err(|e| failed(&e)) };
        let hint = "name a folder, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or http(s)://HOST/PREFIX";
        let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|_| failed(&hint))?;
        if matches!(parsed.scheme(), "http" | "https") && parsed.query().is_some() {
            return Self::signed(&parsed, Path::from_url_path(parsed.path()).unwrap_or(prefix)).map_err(|e| failed(&e));
        }
        let crypto: Arc<dyn CryptoProvider> = Arc::new(OpenSsl);
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Local => {
                let folder = parsed.to_file_path().map_err(|()| failed(&"it names no folder of this machine"))?;
                return Self::folder(folder).map_err(|e| failed(&e));
            }
            ObjectStoreScheme::AmazonS3 => {
                let builder = AmazonS3Builder::from_env().with_url(url).with_crypto_provider(crypto);
                Arc::new(builder.build().map_err(|e| failed(&e))?)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_crypto_provider(crypto);
                Arc::new(builder.build().map_err(|e| failed(&e))?)
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let builder = MicrosoftAzureBuilder::from_env().with_url(url).with_crypto_provider(crypto);
                Arc::new(builder.build().map_err(|e| failed(&e))?)
            }
            ObjectStoreScheme::Http => {
                let mut host = parsed.clone();
                host.set_path("/");
                Arc::new(plain(&host).build().map_err(|e| failed(&e))?)
            }
            _ => return Err(failed(&hint)),
        };
        Ok(Self { store, prefix, only_get: false })
    }

    fn signed(url: &Url, prefix: Path) -> Result<Self, Box<dyn std::error::Error>> {
        let uri: Uri = url[..url::Position::AfterQuery].parse()?;
        let mut host = url.clone();
        host.set_path("/");
        host.set_query(None);
        let store = plain(&host).with_http_connector(Signed(uri)).build()?;
        Ok(Self { store: Arc::new(store), prefix, only_get: true })
    }

    fn folder(folder: PathBuf) -> Result<Self, Error> {
        std::fs::create_dir_all(&folder).map_err(|source| Error::Generic { store: "folder", source: Box::new(source) })?;
        let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: Path::default(), only_get: false })
    }

    /// The full name of what lies below the prefix.
    #[must_use]
    pub fn path(&self, name: &str) -> Path {
        self.prefix.parts().chain(Path::from(name).parts()).collect()
    }
}

/// A server that is no provider's.
fn plain(host: &Url) -> HttpBuilder {
    // A whole answer may take long where the server knows no ranges; silence may not.
    let options =
        ClientOptions::new().with_allow_http(host.scheme() == "http").with_timeout_disabled().with_read_timeout(SILENCE);
    HttpBuilder::new().with_url(host.as_str()).with_client_options(options)
}

/// Asks for one URL, whatever it is asked for. So the query stands nowhere above, where URLs go into errors and logs, and the path stays as
/// it was signed.
struct Signed(Uri);

struct SignedClient {
    uri: Uri,
    inner: HttpClient,
}

impl std::fmt::Debug for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signed(***)")
    }
}

impl std::fmt::Debug for SignedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignedClient(***)")
    }
}

impl HttpConnector for Signed {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient, Error> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(SignedClient { uri: self.0.clone(), inner }))
    }
}

#[async_trait]
impl HttpService for SignedClient {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        *request.uri_mut() = self.uri.clone();
        self.inner.execute(request).await
    }
}

/// A URL without what lets in.
fn shown(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return url.to_owned() };
    if !parsed.username().is_empty() || parsed.password().is_some() {
        let _ = parsed.set_username("***");
        let _ = parsed.set_password(None);
    }
    if parsed.query().is_some() {
        parsed.set_query(Some("***"));
    }
    parsed.to_string()
}

/// The primitives that requests are signed with.
#[derive(Debug)]
struct OpenSsl;

fn refused(error: ErrorStack) -> Error {
    Error::Generic { store: "openssl", source: Box::new(error) }
}

impl CryptoProvider for OpenSsl {
    fn digest(&self, algorithm: DigestAlgorithm) -> Result<Box<dyn DigestContext>, Error> {
        Ok(Box::new(Digest { hasher: Hasher::new(message_digest(&algorithm)?).map_err(refused)?, out: None }))
    }

    fn hmac(&self, algorithm: DigestAlgorithm, secret: &[u8]) -> Result<Box<dyn HmacContext>, Error> {
        let key = PKey::hmac(secret).map_err(refused)?;
        Ok(Box::new(Hmac { digest: message_digest(&algorithm)?, key, text: Vec::new(), out: Vec::new() }))
    }

    fn sign(&self, algorithm: SigningAlgorithm, pem: &[u8]) -> Result<Box<dyn Signer>, Error> {
        match algorithm {
            SigningAlgorithm::RS256 => Ok(Box::new(Rs256(PKey::private_key_from_pem(pem).map_err(refused)?))),
            other => Err(unknown(&other)),
        }
    }
}

fn unknown(algorithm: &dyn std::fmt::Debug) -> Error {
    Error::NotSupported { source: format!("{algorithm:?} is not among what is signed with").into() }
}

fn message_digest(algorithm: &DigestAlgorithm) -> Result<MessageDigest, Error> {
    match algorithm {
        DigestAlgorithm::Sha256 => Ok(MessageDigest::sha256()),
        other => Err(unknown(other)),
    }
}

struct Digest {
    hasher: Hasher,
    out: Option<Result<DigestBytes, ErrorStack>>,
}

impl DigestContext for Digest {
    fn update(&mut self, data: &[u8]) {
        if let Err(error) = self.hasher.update(data) {
            self.out.get_or_insert(Err(error));
        }
    }

    fn finish(&mut self) -> Result<&[u8], Error> {
        if !matches!(self.out, Some(Err(_))) {
            self.out = Some(self.hasher.finish());
        }
        match &self.out {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(refused(error.clone())),
            None => Err(Error::NotSupported { source: "a digest that was not made".into() }),
        }
    }
}

/// What is signed is a request's few lines, so they are held until they are signed.
struct Hmac {
    digest: MessageDigest,
    key: PKey<Private>,
    text: Vec<u8>,
    out: Vec<u8>,
}

impl HmacContext for Hmac {
    fn update(&mut self, data: &[u8]) {
        self.text.extend_from_slice(data);
    }

    fn finish(&mut self) -> Result<&[u8], Error> {
        let mut signer = openssl::sign::Signer::new(self.digest, &self.key).map_err(refused)?;
        self.out = signer.sign_oneshot_to_vec(&self.text).map_err(refused)?;
        Ok(&self.out)
    }
}

struct Rs256(PKey<Private>);

impl Signer for Rs256 {
    fn sign(&self, string_to_sign: &[u8]) -> Result<Vec<u8>, Error> {
        let mut signer = openssl::sign::Signer::new(MessageDigest::sha256(), &self.0).map_err(refused)?;
        signer.sign_oneshot_to_vec(string_to_sign).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2; and FIPS 180-4's "abc".
    #[test]
    fn digests_are_those_of_the_standards() {
        let mut hmac = OpenSsl.hmac(DigestAlgorithm::Sha256, b"Jefe").unwrap();
        hmac.update(b"what do ya want ");
        hmac.update(b"for nothing?");
        assert_eq!(hex::encode(hmac.finish().unwrap()), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let mut digest = OpenSsl.digest(DigestAlgorithm::Sha256).unwrap();
        digest.update(b"a");
        digest.update(b"bc");
        assert_eq!(hex::encode(digest.finish().unwrap()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_place_is_a_folder_or_a_url_that_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("made/now");
        assert!(Objects::open(folder.to_str().unwrap()).is_ok() && folder.is_dir());
        assert!(Objects::open(&format!("file://{}", folder.display())).is_ok());
        let error = Objects::open("ftp://user:hunter2@host/x?token=hunter2").unwrap_err().to_string();
        assert!(error.contains("s3://BUCKET") && !error.contains("hunter2"), "{error}");
        let signed = Objects::open("https://b.s3.eu-west-1.amazonaws.com/a%2Bb/c.jsonl?X-Amz-Signature=hunter2").unwrap();
        assert!(signed.only_get && signed.prefix.as_ref() == "a+b/c.jsonl", "{signed:?}");
        assert!(!format!("{signed:?}").contains("hunter2"), "{signed:?}");
    }
}
