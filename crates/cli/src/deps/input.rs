//! What to check: the environment or file that the flags name, with metadata from the cache and the index.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use weir_base::{Clock, FileSystem, OpenMode, OsFileSystem, OsRandom, SystemClock};
use weir_cache::{Cache, CacheOptions, RemoteOptions};
use weir_deps::check::Newest;
use weir_deps::index::http::{Http, HttpOptions};
use weir_deps::index::{Fetch, fill};
use weir_deps::marker::Target;
use weir_deps::package::PackageSet;
use weir_deps::policy::Policy;
use weir_deps::store::{CacheStore, NAMESPACE, NoStore, Store};
use weir_deps::{Error, environment, lock};

use super::output::Timings;
use super::pip::PipConfig;

/// The Python Package Index, which pip asks when nothing is configured.
const INDEX_DEFAULT: &str = "https://pypi.org/simple/";

/// Flags that name the input and where its metadata comes from.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InputArgs {
    /// Interpreter whose environment is read; it is not started.
    #[arg(long, value_name = "PATH", group = "source")]
    python: Option<PathBuf>,
    /// Virtual environment or site-packages folder.
    #[arg(long, value_name = "DIR", group = "source")]
    env: Option<PathBuf>,
    /// Lock file, requirement file, pyproject.toml, or SBOM (CycloneDX, SPDX).
    #[arg(long, value_name = "FILE", group = "source")]
    lock: Option<PathBuf>,
    /// Evaluate markers for this Python, such as 3.12 [default: every marker holds].
    #[arg(long, value_name = "VERSION")]
    target_python: Option<String>,
    /// Evaluate markers for this platform: linux, macos or windows.
    #[arg(long, value_name = "NAME", default_value = "linux", requires = "target_python")]
    target_platform: String,
    /// Evaluate markers for this machine.
    #[arg(long, value_name = "NAME", default_value = "x86_64", requires = "target_python")]
    target_machine: String,
    /// Extras that are asked for.
    #[arg(long, value_name = "NAME", requires = "target_python")]
    extra: Vec<String>,
    /// Use what the cache has and no network; what it lacks is a finding.
    #[arg(long)]
    offline: bool,
    /// Package index (its simple pages) [default: the lock file's, else pip's].
    #[arg(long, value_name = "URL", env = "PIP_INDEX_URL", hide_env_values = true)]
    index: Option<String>,
    /// Requests per second at most; at least 10.
    #[arg(long, value_name = "N", default_value = "100")]
    rate: u32,
    /// Longest time for all requests together, seconds.
    #[arg(long, value_name = "SECONDS", default_value = "300")]
    deadline_seconds: u64,
    /// Certificate authorities to trust instead of the built-in ones, PEM.
    #[arg(long, value_name = "FILE", env = "PIP_CERT")]
    cert: Option<PathBuf>,
    /// Ask the index for the newest versions too, for the policy's rule about packages that are behind.
    #[arg(long)]
    newest: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Flags that say which cache.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CacheArgs {
    /// Folder of the cache [default: cache in the data folder].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Neither read nor write the cache.
    #[arg(long)]
    no_cache: bool,
    /// A Redis to share the cache through.
    #[arg(long, value_name = "URL", env = "WEIR_REDIS", hide_env_values = true)]
    redis: Option<String>,
}

impl CacheArgs {
    /// The folder of the cache.
    pub(crate) fn dir(&self) -> anyhow::Result<PathBuf> {
        match &self.cache_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(data_folder()?.join("cache")),
        }
    }

    fn store(&self) -> anyhow::Result<Box<dyn Store>> {
        if self.no_cache {
            return Ok(Box::new(NoStore));
        }
        let mut options = CacheOptions::new(self.dir()?, NAMESPACE);
        options.remote = self.redis.as_deref().map(RemoteOptions::new);
        // A cache that cannot be opened costs time, never an answer.
        Ok(Cache::open(options)
            .map_or_else(|_| Box::new(NoStore) as Box<dyn Store>, |cache| Box::new(CacheStore::new(cache))))
    }
}

impl InputArgs {
    /// The same flags for another input: an environment's folder, an interpreter, or a file.
    pub(crate) fn at(&self, path: PathBuf) -> Self {
        let mut other = Self { python: None, env: None, lock: None, ..self.clone() };
        let is_lock =
            path.is_file() && path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with("python"));
        *(if is_lock { &mut other.lock } else { &mut other.env }) = Some(path);
        other
    }

    fn target(&self) -> anyhow::Result<Target> {
        match &self.target_python {
            None => Ok(Target::default()),
            Some(python) => Ok(Target::new(python, &self.target_platform, &self.target_machine, &self.extra)?),
        }
    }
}

/// What was read.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    /// The packages.
    pub(crate) set: PackageSet,
    /// Newest versions, where they were asked for.
    pub(crate) newest: HashMap<String, Newest>,
}

/// Reads the input; without a flag, the active virtual environment, `.venv`, or the interpreter on the search path.
pub(crate) fn read(args: &InputArgs, policy: &Policy, timings: &mut Timings) -> anyhow::Result<Inputs> {
    let store = args.cache.store()?;
    timings.mark("cache");
    let mut set = match &args.lock {
        Some(path) => lock::read(&OsFileSystem, path, &args.target()?)?,
        None => read_environment(args, store.as_ref())?,
    };
    timings.mark("read");
    let mut newest = HashMap::new();
    if args.lock.is_some() || args.newest {
        newest = complete(args, policy, store.as_ref(), &mut set)?;
        timings.mark("index");
    }
    // What was learnt is put here.
    drop(store);
    timings.mark("remember");
    Ok(Inputs { set, newest })
}

fn read_environment(args: &InputArgs, store: &dyn Store) -> anyhow::Result<PackageSet> {
    let path = match (&args.python, &args.env) {
        (Some(path), _) | (None, Some(path)) => path.clone(),
        (None, None) => default_environment()?,
    };
    let reading = environment::Reading { fs: &OsFileSystem, store, clock: &SystemClock::default() };
    Ok(environment::read(reading, &path)?)
}

fn complete(
    args: &InputArgs,
    policy: &Policy,
    store: &dyn Store,
    set: &mut PackageSet,
) -> anyhow::Result<HashMap<String, Newest>> {
    let (clock, random) = (SystemClock::default(), OsRandom);
    let pip = if args.offline { PipConfig::default() } else { PipConfig::read() };
    let cert = args.cert.as_ref().or(pip.cert.as_ref());
    let authorities = cert.map(|path| read_file(path, 16 << 20)).transpose()?;
    let options = HttpOptions {
        requests_per_second: args.rate,
        deadline: Duration::from_secs(args.deadline_seconds),
        authorities,
        ..HttpOptions::default()
    };
    let http = if args.offline { None } else { Some(Http::new(options, &clock, &random)?) };
    // Without a flag, the index that the lock file names, else pip's.
    let listed =
        || set.packages.iter().find_map(|package| package.origin.clone()).filter(|url| url.contains("/simple"));
    let index = args.index.clone().or_else(listed).or(pip.index).unwrap_or_else(|| INDEX_DEFAULT.into());
    let fetch = Fetch {
        index: (!args.offline).then_some(index.as_str()),
        http: http.as_ref(),
        store,
        missing: policy.levels.missing,
        newest: args.newest,
        texts: true,
    };
    Ok(fill(set, &fetch))
}

/// The data folder: `WEIR_DATA`, else the platform's (XDG base directory specification).
pub(crate) fn data_folder() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("WEIR_DATA")
        .or_else(|| Some(set("XDG_DATA_HOME").filter(|path| path.is_absolute())?.join("weir")))
        .or_else(|| Some(set("HOME")?.join(".local/share/weir")))
        .context("there is no home folder: say where the data is with WEIR_DATA")
}

fn default_environment() -> anyhow::Result<PathBuf> {
    if let Some(active) = std::env::var_os("VIRTUAL_ENV").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(active));
    }
    if Path::new(".venv/pyvenv.cfg").exists() {
        return Ok(PathBuf::from(".venv"));
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    for name in ["python3", "python"] {
        if let Some(found) = std::env::split_paths(&search).map(|dir| dir.join(name)).find(|path| path.is_file()) {
            return Ok(found);
        }
    }
    anyhow::bail!("no environment is active: name one with --env, --python or --lock")
}

/// Now, nanoseconds UTC.
pub(crate) fn now() -> weir_base::Timestamp {
    SystemClock::default().now()
}

/// A whole file, up to a size.
pub(crate) fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Error> {
    let io = |error| Error::io(format!("cannot read {}", path.display()), error);
    let file = OsFileSystem.open(path, OpenMode::Read).map_err(io)?;
    let len = file.len().map_err(io)?;
    if len > bytes_max {
        return Err(Error::new(weir_base::Kind::Limit, format!("{} is larger than {bytes_max} bytes", path.display())));
    }
    OsFileSystem.read(path).map_err(io)
}
