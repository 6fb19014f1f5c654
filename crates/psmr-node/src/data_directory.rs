//! A replica's data directory: whose it is, who has it open, and where its parts are.
//!
//! `identity` is text, so that people can read it: format version, cluster, replica, incarnation, standing in the cluster
//! (`fresh` and a founder's incarnation, `rejoining`, or `established` and those of all founders), the genesis record in
//! hexadecimal digits (opaque here), and a CRC32C of all that. `log/` is the log's (see `log_storage`), `checkpoints/` the
//! checkpoints' (see `checkpoint_file`), `lock` is held while the replica runs.

use crate::disk;
use bytes::Bytes;
use psmr_core::command::ReplicaId;
use psmr_core::order::{Identity as Member, Standing};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const VERSION: u32 = 2;
const IDENTITY: &str = "identity";
const FIRST_LINE: &str = "psmr data directory, format ";

/// Whose a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster, chosen at random when it was founded.
    pub cluster: [u8; 16],
    /// The replica in it.
    pub replica: ReplicaId,
    /// Which of the replica's memories this is, and what it counts for.
    pub member: Member,
    /// The cluster's genesis record.
    pub genesis: Bytes,
}

/// Why a data directory cannot be used. Each is one line that names the place and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataDirectoryError {
    /// The system failed.
    Io(String),
    /// The system does not let this user write there.
    Refused(String),
    /// There is a file, not a directory.
    NotADirectory {
        /// The file.
        path: PathBuf,
    },
    /// It is not empty and has no identity.
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// It has no identity yet.
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// Another process has it open.
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Its identity is broken.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Written by another version of this program.
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// It belongs to another cluster.
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: String,
        /// By the caller.
        expected: String,
    },
    /// It belongs to another replica.
    OtherReplica {
        /// The directory.
        path: PathBuf,
        /// Its replica.
        found: ReplicaId,
        /// By the caller.
        expected: ReplicaId,
    },
    /// It was made with other tables: groups, streams, slots.
    OtherGenesis {
        /// The directory.
        path: PathBuf,
    },
}

impl fmt::Display for DataDirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use DataDirectoryError as E;
        match self {
            E::Io(line) | E::Refused(line) => f.write_str(line),
            E::NotADirectory { path } => write!(f, "{} is not a directory; choose a directory for the data", path.display()),
            E::Foreign { path } => {
                write!(f, "{} is not empty and is no data directory of psmr; choose an empty or a new one", path.display())
            }
            E::Missing { path } => write!(f, "{} is no data directory of psmr yet; start the replica with it first", path.display()),
            E::InUse { path } => {
                write!(f, "the data directory {} is in use by another process; stop that one, or choose another", path.display())
            }
            E::Damaged { path, detail } => write!(
                f,
                "{} is damaged: {detail}; this replica must not vote: remove its data directory and let it rejoin and repair \
                 from its peers",
                path.display()
            ),
            E::UnknownVersion { path, version } => {
                write!(f, "{} has format {version}, this program knows {VERSION}; use the psmr that wrote it", path.display())
            }
            E::OtherCluster { path, found, expected } => write!(
                f,
                "the data directory {} is of another cluster, {found}, not of {expected}; choose this cluster's directory",
                path.display()
            ),
            E::OtherReplica { path, found, expected } => write!(
                f,
                "the data directory {} belongs to replica {found}, not to {expected}; choose this replica's directory",
                path.display()
            ),
            E::OtherGenesis { path } => write!(
                f,
                "the data directory {} was made with other groups, streams or slot tables; use the configuration it was made with",
                path.display()
            ),
        }
    }
}

impl std::error::Error for DataDirectoryError {}

impl DataDirectoryError {
    fn io(action: &str, path: &Path, error: &io::Error) -> DataDirectoryError {
        let line = disk::explain(action, path, error);
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => DataDirectoryError::Refused(line),
            _ => DataDirectoryError::Io(line),
        }
    }

    /// Whether the directory is the wrong one, rather than broken or out of order.
    pub fn is_wrong_directory(&self) -> bool {
        !matches!(self, DataDirectoryError::Io(_) | DataDirectoryError::Damaged { .. })
    }
}

/// An open data directory. No other process can open it meanwhile.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    identity: Identity,
    _lock: disk::Lock,
}

impl DataDirectory {
    /// Opens `path` for the replica that `expected` names; makes it if it is missing or empty. What an existing directory says
    /// of its member stands, the expected one is that of a new one.
    ///
    /// # Errors
    /// It is another's, in use, broken, or the system refused something.
    pub fn open_or_create(path: &Path, expected: Identity) -> Result<DataDirectory, DataDirectoryError> {
        create_directory(path)?;
        if read_identity(path)?.is_none() {
            check_empty(path)?;
        }
        let lock = lock(path)?;
        let identity = match read_identity(path)? {
            Some(found) => check_owner(path, found, &expected)?,
            None => {
                write_identity(path, &expected)?;
                expected
            }
        };
        DataDirectory::with_parts(path, identity, lock)
    }

    /// Opens `path`, which must have an identity, whosever it is.
    ///
    /// # Errors
    /// It is none, in use, broken, or the system refused something.
    pub fn open(path: &Path) -> Result<DataDirectory, DataDirectoryError> {
        let missing = || DataDirectoryError::Missing { path: path.into() };
        read_identity(path)?.ok_or_else(missing)?;
        let lock = lock(path)?;
        let identity = read_identity(path)?.ok_or_else(missing)?;
        DataDirectory::with_parts(path, identity, lock)
    }

    fn with_parts(path: &Path, identity: Identity, lock: disk::Lock) -> Result<DataDirectory, DataDirectoryError> {
        let directory = DataDirectory { path: path.into(), identity, _lock: lock };
        directory.check_log()?;
        create_directory(&directory.checkpoints_path())?;
        Ok(directory)
    }

    /// A replica that may have promised something has a log.
    fn check_log(&self) -> Result<(), DataDirectoryError> {
        let path = self.log_path();
        let is_empty = match std::fs::read_dir(&path) {
            Ok(mut items) => items.next().is_none(),
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(DataDirectoryError::Io(disk::explain("list", &path, &error))),
        };
        match self.identity.member.standing {
            Standing::Rejoining | Standing::Established { .. } if is_empty => {
                Err(DataDirectoryError::Damaged { path, detail: "it is missing or empty".into() })
            }
            _ => Ok(()),
        }
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sets what the replica counts for, durably.
    ///
    /// # Errors
    /// What was before stands.
    pub fn set_member(&mut self, member: Member) -> Result<(), DataDirectoryError> {
        let identity = Identity { member, ..self.identity.clone() };
        write_identity(&self.path, &identity)?;
        self.identity = identity;
        Ok(())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For `FileLog::open`, which makes it.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    /// For `checkpoint_file`; it is there.
    pub fn checkpoints_path(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
}

/// Reads whose `path` is, without opening it; `None` if it is missing or has no identity.
///
/// # Errors
/// The identity is broken, or the system refused something.
pub fn read_identity(path: &Path) -> Result<Option<Identity>, DataDirectoryError> {
    let file = path.join(IDENTITY);
    let text = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(DataDirectoryError::NotADirectory { path: path.into() });
        }
        Err(error) => return Err(DataDirectoryError::io("read", &file, &error)),
    };
    decode(&text, &file).map(Some)
}

/// Sixteen bytes as 32 hexadecimal digits.
pub fn cluster_text(cluster: &[u8; 16]) -> String {
    to_hex(cluster)
}

fn lock(path: &Path) -> Result<disk::Lock, DataDirectoryError> {
    disk::Lock::try_take(&path.join("lock"))
        .map_err(|error| DataDirectoryError::io("lock", path, &error))?
        .ok_or_else(|| DataDirectoryError::InUse { path: path.into() })
}

/// Makes a directory and those above it, durably.
fn create_directory(path: &Path) -> Result<(), DataDirectoryError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(DataDirectoryError::NotADirectory { path: path.into() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(DataDirectoryError::NotADirectory { path: disk::parent(path) });
        }
        Err(error) => return Err(DataDirectoryError::io("open", path, &error)),
    }
    let parent = disk::parent(path);
    create_directory(&parent)?;
    let create = || -> io::Result<()> {
        std::fs::create_dir(path)?;
        disk::sync_directory(&parent)
    };
    create().map_err(|error| DataDirectoryError::io("create", path, &error))
}

/// What a crash during the making of a data directory leaves does not count.
fn check_empty(path: &Path) -> Result<(), DataDirectoryError> {
    let failed = |error: io::Error| DataDirectoryError::io("list", path, &error);
    for item in std::fs::read_dir(path).map_err(failed)? {
        let name = item.map_err(failed)?.file_name();
        if !["lock", "identity.tmp", "lost+found"].iter().any(|known| name == *known) {
            return Err(DataDirectoryError::Foreign { path: path.into() });
        }
    }
    Ok(())
}

fn check_owner(path: &Path, found: Identity, expected: &Identity) -> Result<Identity, DataDirectoryError> {
    let path = path.to_path_buf();
    if found.cluster != expected.cluster {
        let (found, expected) = (to_hex(&found.cluster), to_hex(&expected.cluster));
        return Err(DataDirectoryError::OtherCluster { path, found, expected });
    }
    if found.replica != expected.replica {
        return Err(DataDirectoryError::OtherReplica { path, found: found.replica, expected: expected.replica });
    }
    if found.genesis != expected.genesis {
        return Err(DataDirectoryError::OtherGenesis { path });
    }
    Ok(found)
}

fn write_identity(path: &Path, identity: &Identity) -> Result<(), DataDirectoryError> {
    disk::replace_file(&path.join(IDENTITY), encode(identity).as_bytes()).map_err(DataDirectoryError::Io)
}

fn encode(identity: &Identity) -> String {
    let Identity { cluster, replica, member, genesis } = identity;
    let (cluster, genesis) = (to_hex(cluster), to_hex(genesis));
    let (incarnation, standing) = (member.incarnation, standing_text(&member.standing));
    let body = format!(
        "{FIRST_LINE}{VERSION}\ncluster {cluster}\nreplica {replica}\nincarnation {incarnation}\nstanding {standing}\n\
         genesis {genesis}\n"
    );
    let checksum = crc32c::crc32c(body.as_bytes());
    format!("{body}crc32c {checksum:08x}\n")
}

fn standing_text(standing: &Standing) -> String {
    match standing {
        Standing::Fresh { founder } => format!("fresh {founder}"),
        Standing::Rejoining => "rejoining".into(),
        Standing::Established { founding } => {
            let founding: Vec<String> = founding.iter().map(u64::to_string).collect();
            format!("established {}", founding.join(" "))
        }
    }
}

fn parse_standing(text: &str) -> Option<Standing> {
    let mut words = text.split(' ');
    let kind = words.next()?;
    let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
    match (kind, &numbers[..]) {
        ("fresh", [founder]) => Some(Standing::Fresh { founder: *founder }),
        ("rejoining", []) => Some(Standing::Rejoining),
        ("established", [_, ..]) => Some(Standing::Established { founding: numbers }),
        _ => None,
    }
}

fn decode(bytes: &[u8], file: &Path) -> Result<Identity, DataDirectoryError> {
    let damaged = |detail: &str| DataDirectoryError::Damaged { path: file.into(), detail: detail.into() };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
    let (body, last) = text.split_at(text.rfind("crc32c ").ok_or_else(|| damaged("it has no checksum"))?);
    if last != format!("crc32c {:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum does not fit"));
    }
    let mut lines = body.lines();
    let version = lines.next().and_then(|line| line.strip_prefix(FIRST_LINE)).ok_or_else(|| damaged("it is something else"))?;
    if version != VERSION.to_string() {
        return Err(DataDirectoryError::UnknownVersion { path: file.into(), version: version.into() });
    }
    let mut field = |name: &str| {
        let value = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.ok_or_else(|| damaged(&format!("{name} is missing")))
    };
    let (cluster, replica, incarnation) = (field("cluster")?, field("replica")?, field("incarnation")?);
    let (standing, genesis) = (field("standing")?, field("genesis")?);
    let cluster = from_hex(cluster).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| damaged("cluster is no 32 digits"))?;
    Ok(Identity {
        cluster,
        replica: replica.parse().map_err(|_| damaged("replica is no number"))?,
        member: Member {
            incarnation: incarnation.parse().map_err(|_| damaged("incarnation is no number"))?,
            standing: parse_standing(standing).ok_or_else(|| damaged("standing is none that there is"))?,
        },
        genesis: from_hex(genesis).ok_or_else(|| damaged("genesis is no hexadecimal digits"))?.into(),
    })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let pairs = digits?;
    (pairs.len() % 2 == 0).then(|| pairs.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

#[cfg(test)]
mod tests;
