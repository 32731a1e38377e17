//! The list of tokens in the data folder, `tokens.json` (mode 0600): `docs/formats/tokens.md`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use serde::{Deserialize, Serialize};
use weir_base::{Clock, FileLock, FileSystem, Kind, LockError, Random, Retry};

use super::Grant;
use crate::error::{Error, Result};

/// The file's name.
pub const FILE: &str = "tokens.json";
const LOCK: &str = "tokens.lock";
const LOCK_WAIT: Duration = Duration::from_secs(10);
const VERSION: u32 = 1;
/// What a file may hold.
const TOKENS_MAX: usize = 1000;
const FILE_BYTES_MAX: u64 = 4 << 20;
const NAME_BYTES_MAX: usize = 64;
/// `weir_`, 16 hex digits that name the entry, `_`, 64 hex digits that nobody can guess.
const PREFIX: &str = "weir_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// A token as it is stored: everything but its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    id: String,
    name: String,
    read: bool,
    write: bool,
    /// `null` for all.
    databases: Option<Vec<String>>,
    /// RFC 3339.
    created: String,
    /// argon2id in the PHC string format.
    hash: String,
}

/// Whatever prints a token prints nothing that helps to guess it.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("name", &self.name).field("grant", &self.grant()).finish_non_exhaustive()
    }
}

impl Token {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it was made, RFC 3339.
    pub fn created(&self) -> &str {
        &self.created
    }

    /// What it allows.
    pub fn grant(&self) -> Grant {
        Grant { read: self.read, write: self.write, databases: self.databases.as_deref().map(Arc::from) }
    }

    /// Whether `secret` is its secret. Takes tens of milliseconds.
    pub(super) fn verifies(&self, secret: &str) -> bool {
        let hash = PasswordHash::new(&self.hash);
        hash.is_ok_and(|hash| Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok())
    }
}

/// The id in a secret, if it has the form of one.
pub(super) fn id_of(secret: &str) -> Option<&str> {
    let (id, rest) = secret.strip_prefix(PREFIX)?.split_once('_')?;
    let hex = |text: &str, bytes: usize| text.len() == 2 * bytes && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hex(id, ID_BYTES) && hex(rest, SECRET_BYTES)).then_some(id)
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    tokens: Vec<Token>,
}

/// What a new token is to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// By which it is listed and revoked.
    pub name: String,
    /// What it allows.
    pub grant: Grant,
}

/// The list on the disk. Its methods block.
#[derive(Debug, Clone)]
pub struct TokenFile {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
}

impl TokenFile {
    /// That of a data folder.
    pub fn new(fs: Arc<dyn FileSystem>, data: &Path) -> Self {
        Self { fs, dir: data.to_path_buf() }
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// All tokens; `None` when there is no file.
    ///
    /// # Errors
    /// `damaged` when it is not such a file.
    pub fn list(&self) -> Result<Option<Vec<Token>>> {
        self.read_bytes()?.map(|bytes| self.parse(&bytes)).transpose()
    }

    /// Makes a token. Returns its secret, which is nowhere else.
    ///
    /// # Errors
    /// `conflict` when the name is taken, `invalid` when it is none or nothing is allowed.
    pub fn create(&self, new: &NewToken, clock: &dyn Clock, random: &dyn Random) -> Result<String> {
        check(new)?;
        let cannot = |error| Error::io(format!("cannot make {}", self.dir.display()), error);
        self.fs.create_dir_all(&self.dir).map_err(cannot)?;
        let _lock = self.lock()?;
        let mut tokens = self.list()?.unwrap_or_default();
        if tokens.iter().any(|token| token.name == new.name) {
            return Err(Error::new(Kind::Conflict, format!("there is a token '{}' already", new.name)));
        }
        if tokens.len() >= TOKENS_MAX {
            return Err(Error::new(Kind::Limit, format!("there are {TOKENS_MAX} tokens already; revoke some")));
        }
        let (mut id, mut secret, mut salt) = ([0; ID_BYTES], [0; SECRET_BYTES], [0; 16]);
        for bytes in [&mut id[..], &mut secret, &mut salt] {
            random.fill(bytes);
        }
        let secret = format!("{PREFIX}{}_{}", hex(&id), hex(&secret));
        tokens.push(Token {
            id: hex(&id),
            name: new.name.clone(),
            read: new.grant.read,
            write: new.grant.write,
            databases: new.grant.databases.as_deref().map(<[String]>::to_vec),
            created: now(clock),
            hash: hashed(&secret, &salt)?,
        });
        self.write(tokens)?;
        Ok(secret)
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// `not_found` when there is none of this name.
    pub fn revoke(&self, name: &str) -> Result<()> {
        let missing = || Error::new(Kind::NotFound, format!("there is no token '{}'", name.escape_default()));
        // Without the file there may be no folder either, and thus no place for the lock.
        self.list()?.ok_or_else(missing)?;
        let _lock = self.lock()?;
        let mut tokens = self.list()?.unwrap_or_default();
        let before = tokens.len();
        tokens.retain(|token| token.name != name);
        if tokens.len() == before {
            return Err(missing());
        }
        // The file stays, also when it names nobody any more: without it everybody would be let in.
        self.write(tokens)
    }

    pub(super) fn read_bytes(&self) -> Result<Option<Vec<u8>>> {
        let path = self.path();
        let cannot = |error| Error::io(format!("cannot read {}", path.display()), error);
        let found = match self.fs.metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(error)),
        };
        if found.len > FILE_BYTES_MAX {
            return Err(Error::new(
                Kind::Damaged,
                format!("{} is larger than a list of tokens can be", path.display()),
            ));
        }
        self.fs.read(&path).map(Some).map_err(cannot)
    }

    /// Errors never quote the file: what stands in it may be half of a hash.
    pub(super) fn parse(&self, bytes: &[u8]) -> Result<Vec<Token>> {
        let damaged = |what: String| Error::new(Kind::Damaged, format!("{} {what}", self.path().display()));
        let stored: Stored = serde_json::from_slice(bytes).map_err(|error| {
            damaged(format!("is no list of tokens (line {}, column {})", error.line(), error.column()))
        })?;
        if stored.version != VERSION {
            return Err(damaged(format!("has version {}; this Weir knows version {VERSION}", stored.version)));
        }
        Ok(stored.tokens)
    }

    fn write(&self, tokens: Vec<Token>) -> Result<()> {
        let path = self.path();
        let cannot = |error| Error::io(format!("cannot write {}", path.display()), error);
        let mut bytes = serde_json::to_vec_pretty(&Stored { version: VERSION, tokens })
            .map_err(|error| Error::wrap(Kind::Internal, "cannot write the list of tokens as JSON", error))?;
        bytes.push(b'\n');
        self.fs.replace(&path, &bytes).map_err(cannot)
    }

    fn lock(&self) -> Result<FileLock> {
        FileLock::acquire(&self.dir.join(LOCK), "weir token", LOCK_WAIT).map_err(|error| match error {
            LockError::Held { .. } => Error::new(Kind::Conflict, error.to_string()).with_retry(Retry::Backoff),
            LockError::Io(source) => Error::io(format!("cannot lock {}", self.dir.join(LOCK).display()), source),
        })
    }
}

fn check(new: &NewToken) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !(1..=NAME_BYTES_MAX).contains(&new.name.len()) || !new.name.bytes().all(plain) {
        let rule = format!("a token's name is 1 to {NAME_BYTES_MAX} letters, digits, '_', '.' and '-'");
        return Err(Error::invalid(rule));
    }
    if !new.grant.read && !new.grant.write {
        return Err(Error::invalid("a token that may neither read nor write is of no use"));
    }
    for database in new.grant.databases.iter().flat_map(|names| names.iter()) {
        weir_engine::names::check_database(database)
            .map_err(|error| Error::invalid(weir_base::error::chain(&error)))?;
    }
    Ok(())
}

fn hashed(secret: &str, salt: &[u8]) -> Result<String> {
    // The library's error is an enum without the secret; its own text is enough.
    let failed =
        |error: argon2::password_hash::Error| Error::new(Kind::Internal, format!("cannot hash a token: {error}"));
    let salt = SaltString::encode_b64(salt).map_err(failed)?;
    Ok(Argon2::default().hash_password(secret.as_bytes(), &salt).map_err(failed)?.to_string())
}

fn now(clock: &dyn Clock) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(clock.now())).map_or_else(|_| String::new(), |at| format!("{at:.0}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use weir_base::{OsFileSystem, OsRandom, SystemClock};

    use super::*;

    fn new(name: &str) -> NewToken {
        NewToken { name: name.into(), grant: Grant { read: true, write: false, databases: Some(["a".into()].into()) } }
    }

    fn create(file: &TokenFile, new: &NewToken) -> Result<String> {
        file.create(new, &SystemClock::default(), &OsRandom)
    }

    #[test]
    fn the_file_holds_no_secret_and_only_the_right_one_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(Arc::new(OsFileSystem), folder.path());
        assert!(file.list().unwrap().is_none());
        let (ci, other) = (create(&file, &new("ci")).unwrap(), create(&file, &new("other")).unwrap());
        let text = String::from_utf8(file.read_bytes().unwrap().unwrap()).unwrap();
        assert!(!text.contains(ci.rsplit('_').next().unwrap()), "{text}");
        let mode = std::fs::metadata(file.path()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let tokens = file.list().unwrap().unwrap();
        assert_eq!(id_of(&ci), Some(tokens[0].id()));
        assert!(tokens[0].verifies(&ci) && !tokens[0].verifies(&other) && tokens[1].verifies(&other));
        assert!(!format!("{tokens:?}").contains("argon2"), "{tokens:?}");
        assert_eq!(create(&file, &new("ci")).unwrap_err().kind(), Kind::Conflict);
        file.revoke("ci").unwrap();
        assert_eq!(file.revoke("ci").unwrap_err().kind(), Kind::NotFound);
        file.revoke("other").unwrap();
        assert_eq!(file.list().unwrap(), Some(Vec::new()), "an empty list lets nobody in; no list lets everybody in");
    }

    #[test]
    fn names_and_rights_are_checked_and_a_foreign_file_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(Arc::new(OsFileSystem), folder.path());
        for name in ["", "a b", "a/b", "\u{e9}", &"x".repeat(65)] {
            assert_eq!(create(&file, &new(name)).unwrap_err().kind(), Kind::Invalid, "{name}");
        }
        let nothing = Grant { read: false, write: false, databases: None };
        assert!(create(&file, &NewToken { name: "x".into(), grant: nothing }).is_err());
        let elsewhere = Grant { databases: Some(["../x".into()].into()), ..Grant::everything() };
        assert!(create(&file, &NewToken { name: "x".into(), grant: elsewhere }).is_err());
        assert!(!file.path().exists());
        for text in ["", "{}", r#"{"version":2,"tokens":[]}"#, r#"{"version":1,"tokens":[],"more":1}"#] {
            OsFileSystem.replace(&file.path(), text.as_bytes()).unwrap();
            assert_eq!(file.list().unwrap_err().kind(), Kind::Damaged, "{text}");
        }
    }

    #[test]
    fn s1_the_list_has_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(Arc::new(OsFileSystem), folder.path());
        create(&file, &new("first")).unwrap();
        let one = file.list().unwrap().unwrap().remove(0);
        file.write(vec![one; TOKENS_MAX]).unwrap();
        assert_eq!(create(&file, &new("last")).unwrap_err().kind(), Kind::Limit);
    }

    #[test]
    fn secrets_have_one_form() {
        let good = format!("weir_{}_{}", "0a".repeat(8), "ff".repeat(32));
        assert_eq!(id_of(&good), Some("0a0a0a0a0a0a0a0a"));
        for bad in ["", "weir_", "weir__", &good[1..], &good[..good.len() - 1], &good.replace("ff", "zz")] {
            assert_eq!(id_of(bad), None, "{bad}");
        }
    }
}
