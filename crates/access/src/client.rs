//! Calls to AWS: each within the rate, with a deadline, and its failure classified.
//!
//! The SDK's own retries are off: every call that leaves passes the rate limit, and whether to call again is for the caller to say.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_ssoadmin::config::Credentials;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use weir_base::{Clock, Kind, OsRandom, Random};
use weir_limits::{Deadline, RateLimit, Retry};
use weir_ops::{Class, Failure};

use crate::{Error, Result, classify, partition};

/// How to reach AWS, and how hard to use it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Another endpoint for all services.
    pub endpoint_url: Option<String>,
    /// Region of the identity center; default as the SDK finds it.
    pub region: Option<String>,
    /// Profile of the shared config files; default as the SDK finds it.
    pub profile: Option<String>,
    /// Access key and secret; default as the SDK finds them.
    pub credentials: Option<(String, String)>,
    /// Which instance, where the account sees several.
    pub instance_arn: Option<String>,
    /// Requests in any second. Default 20, as AWS allows.
    pub requests_per_second: u32,
    /// Creations and deletions that are outstanding at once. Default 10, as AWS allows.
    pub outstanding_max: usize,
    /// How long one call may take. Default 30 s.
    pub call_deadline: Duration,
    /// Pause between two questions about an accepted request. Default 1 s.
    pub ask_pause: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint_url: None,
            region: None,
            profile: None,
            credentials: None,
            instance_arn: None,
            requests_per_second: 20,
            outstanding_max: 10,
            call_deadline: Duration::from_secs(30),
            ask_pause: Duration::from_secs(1),
        }
    }
}

/// An instance of the identity center.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// ARN.
    pub arn: String,
    /// Id of its identity store.
    pub store: String,
}

/// Clients of the three services, with what bounds them. Shared by all threads.
#[derive(Debug)]
pub struct Client {
    pub(crate) sso: aws_sdk_ssoadmin::Client,
    pub(crate) identities: aws_sdk_identitystore::Client,
    pub(crate) organizations: aws_sdk_organizations::Client,
    pub(crate) settings: Settings,
    runtime: tokio::runtime::Runtime,
    rate: RateLimit,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    region: String,
    instance: OnceLock<Instance>,
}

/// How often and how far apart a read is tried again.
const READ_RETRY: Retry =
    Retry { tries_max: 8, pause_first: Duration::from_millis(200), pause_max: Duration::from_secs(10) };

impl Client {
    /// Reads configuration and credentials as the SDK does: environment, profiles, SSO, web identity, instance. `clock` is the one that
    /// deadlines are made with.
    ///
    /// # Errors
    /// `Invalid` without a region, `Unavailable` when threads cannot be started.
    pub fn connect(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("weir-aws")
            .enable_all()
            .build()
            .map_err(|error| Error::io("cannot start the runtime for AWS", error))?;
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(5))
            .operation_attempt_timeout(settings.call_deadline)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &settings.profile {
            loader = loader.profile_name(profile);
        }
        if let Some((key, secret)) = &settings.credentials {
            loader = loader.credentials_provider(Credentials::new(key, secret, None, None, "weir"));
        }
        if let Some(url) = &settings.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let config = runtime.block_on(loader.load());
        let region = config
            .region()
            .map(ToString::to_string)
            .ok_or_else(|| Error::invalid("no region of AWS is known: give --region or AWS_REGION"))?;
        Ok(Self {
            sso: aws_sdk_ssoadmin::Client::new(&config),
            identities: aws_sdk_identitystore::Client::new(&config),
            organizations: aws_sdk_organizations::Client::new(&config),
            runtime,
            rate: RateLimit::new(settings.requests_per_second),
            settings,
            clock,
            random: Arc::new(OsRandom),
            region,
            instance: OnceLock::new(),
        })
    }

    /// The partition that the region is in.
    pub fn partition(&self) -> &'static str {
        partition::of_region(&self.region)
    }

    /// The instance of the identity center.
    ///
    /// # Errors
    /// `NotFound` without one, `Conflict` with several and none chosen.
    pub fn instance(&self) -> Result<&Instance> {
        if let Some(instance) = self.instance.get() {
            return Ok(instance);
        }
        let found = self.find_instance()?;
        Ok(self.instance.get_or_init(|| found))
    }

    fn find_instance(&self) -> Result<Instance> {
        let mut found = Vec::new();
        let mut token = None;
        loop {
            let page = self.read(|| self.sso.list_instances().set_next_token(token.clone()).send())?;
            for instance in page.instances() {
                if let (Some(arn), Some(store)) = (instance.instance_arn(), instance.identity_store_id()) {
                    found.push(Instance { arn: arn.to_owned(), store: store.to_owned() });
                }
            }
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        if let Some(wanted) = &self.settings.instance_arn {
            found.retain(|instance| instance.arn == *wanted);
        }
        match found.len() {
            0 => Err(Error::new(Kind::NotFound, format!("no instance of the identity center in {}", self.region))),
            1 => Ok(found.remove(0)),
            count => Err(Error::new(Kind::Conflict, format!("{count} instances of the identity center: choose one"))),
        }
    }

    /// One call, within the rate and by the deadline.
    pub(crate) fn call<T, E>(
        &self,
        deadline: Deadline,
        future: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let late = |why: String| Failure::new(Class::Retry, why);
        self.rate.acquire(&*self.clock, deadline).map_err(|error| late(error.to_string()))?;
        let left = deadline.remaining(&*self.clock);
        self.runtime.block_on(async {
            match tokio::time::timeout(left, future).await {
                Ok(outcome) => outcome.map_err(|error| classify::failure(&error)),
                Err(_) => Err(late(format!("no answer within {} s", left.as_secs_f32()))),
            }
        })
    }

    /// A call that changes nothing, tried again where that may help.
    pub(crate) fn read<T, E, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let patience = self.settings.call_deadline.saturating_mul(READ_RETRY.tries_max);
        let whole = Deadline::after(&*self.clock, patience);
        let may_retry = |failure: &Failure| matches!(failure.class, Class::Retry | Class::Wait);
        READ_RETRY.run(&*self.clock, &*self.random, whole, may_retry, || {
            self.call(whole.at_most(&*self.clock, self.settings.call_deadline), call())
        })
    }
}
