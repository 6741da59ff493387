//! Files under a prefix of an object store: S3, Google Cloud Storage, Azure, and what speaks as they do.
//!
//! Where a store is and who we are there is what its own environment variables say (`AWS_ENDPOINT_URL`,
//! `AWS_ACCESS_KEY_ID`, ...), or its machine's metadata service. A prefix has no commits: what is listed is named by a
//! fingerprint of its names, sizes and tags, and each file is read on condition that its tag is still the same. What a
//! store tells of an object is checked where it is a digest of the whole object.

use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::Secret;
use futures_util::{StreamExt, TryStreamExt};
use http::StatusCode;
use http::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, Error, GetOptions, GetRange, ObjectStore, RetryConfig};
use reqwest::Client;

use super::folder::fingerprint;
use super::{Entry, Opened, Source};
use crate::address::StoreKind;
use crate::choose::may_belong;
use crate::digest::{Check, hex};
use crate::error::{Failure, HubError, chain};

/// What is under one prefix.
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    kind: StoreKind,
    bucket: String,
}

impl Store {
    pub(crate) fn new(
        kind: StoreKind,
        bucket: &str,
        prefix: &str,
        variables: &[(String, Secret<String>)],
    ) -> Result<Self, HubError> {
        let failed = |error: Error| HubError::Setting {
            setting: "the object store's environment",
            problem: chain(&error),
        };
        // Attempts are counted and waited for in one place, which is not here.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let connector = Connector(crate::http::client()?);
        let store: Arc<dyn ObjectStore> = match kind {
            StoreKind::Amazon => {
                let options = ClientOptions::new().with_default_headers(asking_for_checksums());
                let builder = AmazonS3Builder::new().with_client_options(options);
                let builder =
                    configured(builder, variables, |one, key, value| one.with_config(key, value));
                let builder = builder.with_bucket_name(bucket).with_retry(retry);
                Arc::new(builder.with_http_connector(connector).build().map_err(failed)?)
            }
            StoreKind::Google => {
                let builder = GoogleCloudStorageBuilder::new();
                let builder =
                    configured(builder, variables, |one, key, value| one.with_config(key, value));
                let builder = builder.with_bucket_name(bucket).with_retry(retry);
                Arc::new(builder.with_http_connector(connector).build().map_err(failed)?)
            }
            StoreKind::Azure => {
                let builder = MicrosoftAzureBuilder::new();
                let builder =
                    configured(builder, variables, |one, key, value| one.with_config(key, value));
                let builder = builder.with_container_name(bucket).with_retry(retry);
                Arc::new(builder.with_http_connector(connector).build().map_err(failed)?)
            }
        };
        Ok(Self { objects: store, prefix: Path::from(prefix), kind, bucket: bucket.to_owned() })
    }

    fn failure(&self, error: &Error, file: &str) -> Failure {
        let what =
            || if file.is_empty() { self.what() } else { format!("{file} of {}", self.what()) };
        match error {
            Error::NotFound { .. } => HubError::Missing {
                what: what(),
                remedy: "look at its bucket and prefix".to_owned(),
            }
            .into(),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => HubError::Refused {
                what: what(),
                remedy: "look at the store's credentials in the environment".to_owned(),
            }
            .into(),
            Error::Precondition { .. } => HubError::Changed { file: file.to_owned() }.into(),
            other => Failure::passing(chain(other)),
        }
    }
}

#[async_trait]
impl Source for Store {
    fn host(&self) -> String {
        format!("{}://{}", self.kind.scheme(), self.bucket)
    }

    fn what(&self) -> String {
        format!("{}/{}", self.host(), self.prefix)
    }

    async fn pin(&self) -> Result<String, Failure> {
        Ok(fingerprint(&self.list("").await?))
    }

    async fn list(&self, pin: &str) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        let mut listed = self.objects.list(Some(&self.prefix));
        while let Some(meta) = listed.try_next().await.map_err(|error| self.failure(&error, ""))? {
            let rest = meta.location.prefix_match(&self.prefix);
            let parts: Vec<_> =
                rest.into_iter().flatten().map(|part| part.as_ref().to_owned()).collect();
            let path = parts.join("/");
            if !may_belong(&path) {
                continue;
            }
            // A store without tags has at least the time of the last change.
            let tag = meta.e_tag.unwrap_or_else(|| meta.last_modified.to_rfc3339());
            entries.push(Entry { path, size: meta.size, check: Check::Size, tag: Some(tag) });
            if entries.len() > MAX_FILES {
                return Err(HubError::NothingToLoad {
                    place: self.what(),
                    problem: "there are too many files; name the folder of one model".to_owned(),
                }
                .into());
            }
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        if !pin.is_empty() && fingerprint(&entries) != pin {
            return Err(HubError::Changed { file: self.what() }.into());
        }
        Ok(entries)
    }

    async fn open(
        &self,
        _pin: &str,
        entry: &Entry,
        from: u64,
        _tag: Option<&str>,
    ) -> Result<Opened, Failure> {
        let location = entry.path.split('/').fold(self.prefix.clone(), Path::join);
        let tag = entry.tag.clone().filter(|tag| tag.starts_with('"') || tag.starts_with("W/"));
        let options = GetOptions {
            if_match: tag,
            range: (from > 0).then_some(GetRange::Offset(from)),
            ..GetOptions::default()
        };
        let failed = |error: Error| self.failure(&error, &entry.path);
        let got = self.objects.get_opts(&location, options).await.map_err(failed)?;
        if got.meta.size != entry.size {
            return Err(HubError::Changed { file: entry.path.clone() }.into());
        }
        let check = got.extensions.get::<Told>().and_then(|Told(check)| check.clone());
        let from = got.range.start;
        let body =
            got.into_stream().map(|chunk| chunk.map_err(|error| Failure::passing(chain(&error))));
        Ok(Opened { from, tag: None, check, body: body.boxed() })
    }
}

/// A builder that has heard each of the variables it knows.
fn configured<B, K: FromStr>(
    builder: B,
    variables: &[(String, Secret<String>)],
    set: impl Fn(B, K, &str) -> B,
) -> B {
    variables.iter().fold(builder, |builder, (name, value)| {
        match name.to_ascii_lowercase().parse() {
            Ok(key) => set(builder, key, value.expose()),
            // A variable for other programs.
            Err(_) => builder,
        }
    })
}

fn asking_for_checksums() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("x-amz-checksum-mode"),
        HeaderValue::from_static("ENABLED"),
    )])
}

/// What an answer tells of the whole object.
#[derive(Clone)]
struct Told(Option<Check>);

/// Our client, for object stores.
#[derive(Debug, Clone)]
struct Connector(Client);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut answer = HttpService::call(&self.0, request).await?;
        let told = told(answer.status(), answer.headers());
        answer.extensions_mut().insert(Told(told));
        Ok(answer)
    }
}

/// The best digest of the whole object among the headers of an answer.
fn told(status: StatusCode, headers: &HeaderMap) -> Option<Check> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let decoded = |text: &str| STANDARD.decode(text).ok().map(|bytes| hex(&bytes));
    let whole = status == StatusCode::OK && !headers.contains_key(CONTENT_RANGE);
    // Of a range, these may be of the range.
    let sha256 = value("x-amz-checksum-sha256").filter(|_| whole).and_then(decoded);
    let md5 = value("content-md5").filter(|_| whole).and_then(decoded);
    // These are always of the object.
    let blob_md5 = value("x-ms-blob-content-md5").and_then(decoded);
    let google = headers.get_all("x-goog-hash").iter().filter_map(|value| value.to_str().ok());
    let google =
        google.flat_map(|value| value.split(',')).find_map(|one| one.trim().strip_prefix("md5="));
    let google_md5 = google.and_then(decoded);
    sha256
        .and_then(|hex| Check::sha256(&hex))
        .or_else(|| {
            [md5, blob_md5, google_md5].into_iter().flatten().find_map(|hex| Check::md5(&hex))
        })
        .or_else(|| tag_md5(headers))
}

/// S3 calls an object by its MD5 if it came in one piece and no key of the customer's encrypts it.
fn tag_md5(headers: &HeaderMap) -> Option<Check> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_amazon = headers.keys().any(|name| name.as_str().starts_with("x-amz-"));
    let encrypted = value("x-amz-server-side-encryption").is_some_and(|how| how != "AES256");
    let by_customer = headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
    if !is_amazon || encrypted || by_customer {
        return None;
    }
    Check::md5(headers.get(ETAG)?.to_str().ok()?.trim_matches('"'))
}

/// More than any model has.
const MAX_FILES: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    const TAG: (&str, &str) = ("etag", "\"5d41402abc4b2a76b9719d911017c592\"");
    const AMAZON: (&str, &str) = ("x-amz-request-id", "1");

    #[test]
    fn a_tag_is_a_digest_only_where_s3_says_so() {
        let md5 = Check::md5("5d41402abc4b2a76b9719d911017c592");
        let of = |pairs: &[_]| told(StatusCode::PARTIAL_CONTENT, &headers(pairs));

        assert_eq!(of(&[TAG, AMAZON]), md5);
        assert_eq!(of(&[TAG, AMAZON, ("x-amz-server-side-encryption", "AES256")]), md5);
        assert_eq!(of(&[TAG, AMAZON, ("x-amz-server-side-encryption", "aws:kms")]), None);
        assert_eq!(of(&[("etag", "\"5d41402abc4b2a76b9719d911017c592-2\""), AMAZON]), None);
        assert_eq!(of(&[TAG]), None);
    }

    #[test]
    fn a_better_digest_is_preferred_where_it_is_of_the_whole() {
        let sha = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
        let all = headers(&[TAG, AMAZON, ("x-amz-checksum-sha256", sha)]);

        let whole = told(StatusCode::OK, &all);
        let part = told(StatusCode::PARTIAL_CONTENT, &all);

        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(whole, Check::sha256(sha256));
        assert_eq!(part, Check::md5("5d41402abc4b2a76b9719d911017c592"));
    }

    #[test]
    fn other_clouds_tell_it_in_their_own_headers() {
        let md5 = Check::md5("5d41402abc4b2a76b9719d911017c592");
        let google = headers(&[("x-goog-hash", "crc32c=mnG7TA==,md5=XUFAKrxLKna5cZ2REBfFkg==")]);
        let azure = headers(&[("x-ms-blob-content-md5", "XUFAKrxLKna5cZ2REBfFkg==")]);

        assert_eq!(told(StatusCode::OK, &google), md5);
        assert_eq!(told(StatusCode::PARTIAL_CONTENT, &azure), md5);
    }
}
