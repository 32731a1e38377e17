//! Object stores behind a URL: `s3://`, `gs://`, `az://` and what is compatible with them.
//!
//! Every request has a deadline and a bounded number of tries (`bounded.rs`). A store that does not refuse the second of two conditional puts
//! cannot order commits, so it is probed once when opened, and refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use url::Url;
use weir_base::{Kind, Random, Retry};

use super::bounded::{Bounded, Line, Remote};
use super::object_error;
use crate::error::{Error, Result};

/// Bounds of calls to a remote store.
#[derive(Debug, Clone)]
pub struct RemoteLimits {
    /// To make a connection.
    pub connect_timeout: Duration,
    /// One request, from its start to the last byte of its answer.
    pub request_timeout: Duration,
    /// One transfer, over all its tries.
    pub transfer_timeout: Duration,
    /// Tries of one transfer.
    pub tries: usize,
    /// Tries after the first that all transfers together may be ahead of what they have earned by working; see [`weir_limits::RetryBudget`].
    pub retry_budget: u32,
    /// Failures in a row after which the store is left alone.
    pub breaker_failures: u32,
    /// For how long.
    pub breaker_open: Duration,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            transfer_timeout: Duration::from_secs(300),
            tries: 4,
            retry_budget: 100,
            breaker_failures: weir_limits::breaker::FAILURES_MAX,
            breaker_open: weir_limits::breaker::OPEN_FOR,
        }
    }
}

impl RemoteLimits {
    fn client(&self, allow_http: bool) -> ClientOptions {
        ClientOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_timeout(self.request_timeout)
            .with_allow_http(allow_http)
    }
}

/// The tries are [`Bounded`]'s, which draws full jitter and asks the breaker before each.
fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// Opens the store at `url`. `options` are the providers' own settings, spelled as their environment variables or
/// `object_store` spell them (`AWS_REGION`, `region`); those of other providers are ignored.
///
/// # Errors
/// `invalid` for a scheme or setting that is not known.
pub(super) fn open(
    url: &Url,
    options: &BTreeMap<String, String>,
    limits: &RemoteLimits,
    line: Arc<Line>,
) -> Result<Arc<dyn ObjectStore>> {
    let invalid = |error| Error::wrap(Kind::Invalid, format!("store '{url}' cannot be opened"), error);
    let options = || options.iter().map(|(key, value)| (key.to_ascii_lowercase(), value));
    let allows = |(key, value): &(String, &String)| key.ends_with("allow_http") && value.as_str() == "true";
    let client = limits.client(options().any(|option| allows(&option)));
    let store: Arc<dyn Remote> = match url.scheme() {
        "s3" | "s3a" => {
            let builder = AmazonS3Builder::new().with_client_options(client).with_retry(no_retry());
            let known = options().filter_map(|(key, value)| Some((key.parse::<AmazonS3ConfigKey>().ok()?, value)));
            let builder = known.fold(builder, |builder, (key, value)| builder.with_config(key, value));
            Arc::new(builder.with_url(url.as_str()).build().map_err(invalid)?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(no_retry());
            let known = options().filter_map(|(key, value)| Some((key.parse::<GoogleConfigKey>().ok()?, value)));
            let builder = known.fold(builder, |builder, (key, value)| builder.with_config(key, value));
            Arc::new(builder.with_url(url.as_str()).build().map_err(invalid)?)
        }
        "az" | "azure" | "abfs" | "abfss" | "adl" => {
            let builder = MicrosoftAzureBuilder::new().with_client_options(client).with_retry(no_retry());
            let known = options().filter_map(|(key, value)| Some((key.parse::<AzureConfigKey>().ok()?, value)));
            let builder = known.fold(builder, |builder, (key, value)| builder.with_config(key, value));
            Arc::new(builder.with_url(url.as_str()).build().map_err(invalid)?)
        }
        other => return Err(Error::invalid(format!("'{other}://' is not a store Weir knows (s3, gs, az, file)"))),
    };
    let store = Bounded::new(store, line);
    let prefix = Path::from_url_path(url.path())
        .map_err(|error| Error::wrap(Kind::Invalid, format!("store '{url}' has a path that is not allowed"), error))?;
    Ok(if prefix.as_ref().is_empty() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix)) })
}

/// Checks that a second conditional put of the same object is refused.
///
/// # Errors
/// `invalid` when it is not; those of the store.
pub(super) async fn probe_conditional_put(store: &dyn ObjectStore, random: &dyn Random) -> Result<()> {
    let path = Path::from(format!("_weir/probe-{:016x}", random.next_u64()));
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let failed = |error| object_error("the store's conditional put cannot be probed", error);
    match store.put_opts(&path, PutPayload::from_static(b"1"), create()).await {
        // Nobody else knows the name: an earlier try put it, and its answer was lost.
        Ok(_) | Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
        Err(error) => return Err(failed(error)),
    }
    let second = store.put_opts(&path, PutPayload::from_static(b"2"), create()).await;
    // A probe that stays behind is a few bytes that nothing reads.
    let _ = store.delete(&path).await;
    match second {
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(()),
        Ok(_) => Err(Error::invalid(
            "the store accepts a conditional put of an object that exists, so commits could overwrite each other; \
             use a store that honours If-None-Match",
        )
        .with_retry(Retry::Never)),
        Err(error) => Err(failed(error)),
    }
}
