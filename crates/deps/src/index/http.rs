//! One HTTP client with every bound that a call to an index needs: rate, retry, breaker, deadline, size.

use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

use weir_base::{Clock, Kind, Random};
use weir_limits::{Breaker, Deadline, Retry};

use crate::name::redact_url;
use crate::{Error, Result};

/// What a client is made with.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Requests per second at most; halved when the index says 429, and raised again by success.
    pub requests_per_second: u32,
    /// Longest time for one request.
    pub request_timeout: Duration,
    /// Longest time for everything.
    pub deadline: Duration,
    /// Tries and pauses.
    pub retry: Retry,
    /// Certificates of the authorities to trust instead of the built-in ones, PEM.
    pub authorities: Option<Vec<u8>>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            requests_per_second: 100,
            request_timeout: Duration::from_secs(15),
            deadline: Duration::from_secs(300),
            retry: Retry::default(),
            authorities: None,
        }
    }
}

/// The lowest rate that can be asked for, and that 429 answers can lead to.
pub const REQUESTS_PER_SECOND_MIN: u32 = 10;

/// A client; shared by threads.
pub struct Http<'a> {
    agent: ureq::Agent,
    options: HttpOptions,
    clock: &'a dyn Clock,
    random: &'a dyn Random,
    breaker: Breaker,
    deadline: Deadline,
    pace: Mutex<Pace>,
}

struct Pace {
    /// When the next request may start, by the monotonic clock.
    next: Duration,
    interval: Duration,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: String,
    /// `Content-Range`.
    pub content_range: String,
    /// The body.
    pub body: Vec<u8>,
}

/// A failed try: what to tell, whether to try again, and how long the server asks to wait.
struct Failure {
    error: Error,
    again: bool,
    wait: Option<Duration>,
}

impl<'a> Http<'a> {
    /// A client whose deadline starts now.
    pub fn new(options: HttpOptions, clock: &'a dyn Clock, random: &'a dyn Random) -> Result<Self> {
        let mut tls = ureq::tls::TlsConfig::builder();
        if let Some(pem) = &options.authorities {
            let certificates: Vec<_> = ureq::tls::parse_pem(pem)
                .filter_map(|item| match item {
                    Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(Error::invalid("the file of certificate authorities holds none"));
            }
            tls = tls.root_certs(ureq::tls::RootCerts::from(certificates));
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(options.request_timeout))
            .timeout_connect(Some(Duration::from_secs(5)))
            .http_status_as_error(false)
            .max_redirects(5)
            .max_idle_connections_per_host(64)
            .max_idle_connections(64)
            .user_agent(concat!("weir-deps/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build();
        let rate = options.requests_per_second.max(REQUESTS_PER_SECOND_MIN);
        let pace = Pace { next: Duration::ZERO, interval: Duration::from_secs(1) / rate };
        Ok(Self {
            agent: ureq::Agent::new_with_config(config),
            breaker: Breaker::default(),
            deadline: Deadline::after(clock, options.deadline),
            pace: Mutex::new(pace),
            options,
            clock,
            random,
        })
    }

    /// GET with up to `bytes_max` of body. 404 and the like are answers; 429, 5xx and broken connections are tried again.
    pub fn get(&self, url: &str, headers: &[(&str, &str)], bytes_max: u64) -> Result<Answer> {
        self.until_answered(url, || {
            let mut request = self.agent.get(url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            self.once(url, request.call(), bytes_max)
        })
    }

    /// POST of a JSON document; the status. As patient as [`Http::get`], so it may be delivered more than once.
    pub fn post(&self, url: &str, document: &str) -> Result<u16> {
        let send = || self.agent.post(url).header("content-type", "application/json").send(document);
        self.until_answered(url, || self.once(url, send(), 1 << 20)).map(|answer| answer.status)
    }

    fn until_answered(&self, url: &str, once: impl Fn() -> Result<Answer, Failure>) -> Result<Answer> {
        let mut tries = 0;
        loop {
            if !self.breaker.allows(self.clock) {
                let why = format!("the index does not answer, {} was not asked", redact_url(url));
                return Err(Error::new(Kind::Unavailable, why));
            }
            self.wait_for_turn()?;
            let failure = match once() {
                Ok(answer) => {
                    self.breaker.succeeded();
                    self.speed_up();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            tries += 1;
            if !failure.again || tries >= self.options.retry.tries_max {
                return Err(failure.error);
            }
            let pause = failure.wait.unwrap_or_else(|| self.options.retry.pause(tries, self.random));
            if pause >= self.deadline.remaining(self.clock) {
                return Err(failure.error);
            }
            self.clock.sleep(pause);
        }
    }

    /// The answer to one try; connections and bodies that break off, 429 and 5xx are failures.
    fn once(
        &self,
        url: &str,
        called: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        bytes_max: u64,
    ) -> Result<Answer, Failure> {
        let shown = redact_url(url);
        let mut response = called.map_err(|error| {
            self.breaker.failed(self.clock);
            let kind = Kind::Unavailable;
            // The error of the client may name the URL with its secrets: only its kind is kept.
            Failure {
                error: Error::new(kind, format!("no answer for {shown}: {}", reason(&error))),
                again: true,
                wait: None,
            }
        })?;
        let status = response.status().as_u16();
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (content_type, content_range) = (header("content-type"), header("content-range"));
        if status == 429 || status >= 500 {
            let wait = header("retry-after").trim().parse().ok().map(Duration::from_secs);
            if status == 429 {
                self.slow_down(wait);
            } else {
                self.breaker.failed(self.clock);
            }
            let error = Error::new(Kind::Unavailable, format!("{shown} answered {status}"));
            return Err(Failure { error, again: true, wait });
        }
        let mut body = Vec::new();
        let read = response.body_mut().as_reader().take(bytes_max + 1).read_to_end(&mut body);
        if let Err(error) = read {
            let error = Error::new(Kind::Unavailable, format!("the answer for {shown} broke off: {}", error.kind()));
            return Err(Failure { error, again: true, wait: None });
        }
        if body.len() as u64 > bytes_max {
            let error = Error::new(Kind::Limit, format!("the answer for {shown} is larger than {bytes_max} bytes"));
            return Err(Failure { error, again: false, wait: None });
        }
        Ok(Answer { status, content_type, content_range, body })
    }

    /// Waits until the rate allows a request. The lock is not held while waiting.
    fn wait_for_turn(&self) -> Result<()> {
        let wait = {
            let mut pace = self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let now = self.clock.monotonic();
            let turn = pace.next.max(now);
            pace.next = turn + pace.interval;
            turn - now
        };
        if wait >= self.deadline.remaining(self.clock) {
            return Err(Error::new(Kind::Unavailable, "the deadline for the index has passed"));
        }
        if !wait.is_zero() {
            self.clock.sleep(wait);
        }
        Ok(())
    }

    fn slow_down(&self, wait: Option<Duration>) {
        let mut pace = self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pace.interval = (pace.interval * 2).min(Duration::from_secs(1) / REQUESTS_PER_SECOND_MIN);
        if let Some(wait) = wait {
            pace.next = pace.next.max(self.clock.monotonic() + wait.min(Duration::from_secs(60)));
        }
    }

    fn speed_up(&self) {
        let least = Duration::from_secs(1) / self.options.requests_per_second.max(REQUESTS_PER_SECOND_MIN);
        let mut pace = self.pace.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pace.interval = pace.interval.mul_f64(0.98).max(least);
    }
}

fn reason(error: &ureq::Error) -> &'static str {
    match error {
        ureq::Error::Timeout(_) => "timed out",
        ureq::Error::HostNotFound => "the host is unknown",
        ureq::Error::ConnectionFailed => "no connection",
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => "the certificate or TLS was refused",
        ureq::Error::TooManyRedirects => "too many redirects",
        ureq::Error::BadUri(_) => "the address is not valid",
        // rustls reports what it refuses during the handshake as an input error of this kind.
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            "the certificate or TLS was refused"
        }
        ureq::Error::Io(_) => "the connection broke",
        _ => "the answer was not understood",
    }
}
