//! The kinds of setting values: parsing from text, allowed values, display.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use caskade_api::{read_size, show_size};
use caskade_engine::SyncPolicy;
use caskade_engine::options::{Index, MergeWindow};
use libp2p::Multiaddr;
use toml::Value;

use crate::disk::Mark;

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Policy by which one node of a pair takes over from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairTakeover {
    /// Only `caskctl cluster takeover` starts a takeover.
    Manual,
    /// The node without a vote takes over once the other has been silent for the time that the setting's help
    /// names.
    Auto,
}

/// Reply of a node to a command on a key whose primary is another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// The node forwards the command to the primary and returns its reply.
    Proxy,
    /// Redis Cluster's MOVED, with the address of the primary.
    Moved,
}

/// Policy for client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// The node requests no certificate.
    No,
    /// A certificate, if the client sends one, must be signed by the CA.
    Optional,
    /// The client must send a certificate signed by the CA.
    Yes,
}

/// A secret text: `caskd config`, CONFIG GET and logs never show it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Returns the secret text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "Hidden(empty)" } else { "Hidden(..)" })
    }
}

/// Number of texts that a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Exactly one.
    One,
    /// Any number: the flag is repeated, or commas separate the texts.
    List,
    /// Zero or one: the flag alone means `true`.
    Switch,
}

/// The description of a kind, independent of its value type.
pub(super) trait Describe: Sync {
    /// Returns the placeholder for a value in the help.
    fn value_name(&self) -> &'static str;
    /// Returns the allowed values, as a phrase that follows "must be".
    fn allowed(&self) -> String;
    /// Returns how many texts a flag takes.
    fn shape(&self) -> Shape {
        Shape::One
    }
}

/// Parsing and display of values of one type.
pub(super) trait Kind<T>: Describe {
    /// Parses the value; `None` if the text is not an allowed value.
    fn read(&self, text: &str) -> Option<T>;
    /// Returns the value in the form of a settings file; `None` for a value that is not set.
    fn show(&self, value: &T) -> Option<Value>;

    /// Parses a value given as several texts: the last one, unless the kind is a list.
    fn read_all(&self, texts: &[String]) -> Option<T> {
        self.read(texts.last()?)
    }
}

/// A whole number: its bounds and its unit.
pub(super) struct Int(pub(super) RangeInclusive<u64>, pub(super) &'static str);

impl Describe for Int {
    fn value_name(&self) -> &'static str {
        "N"
    }

    fn allowed(&self) -> String {
        format!("{} to {} ({})", self.0.start(), self.0.end(), self.1)
    }
}

impl<T: TryFrom<u64> + Copy + TryInto<i64>> Kind<T> for Int {
    fn read(&self, text: &str) -> Option<T> {
        let number = text.trim().parse().ok().filter(|number| self.0.contains(number))?;
        T::try_from(number).ok()
    }

    fn show(&self, value: &T) -> Option<Value> {
        (*value).try_into().ok().map(Value::Integer)
    }
}

/// A number of bytes, with K, M or G for powers of 1024: its bounds and its unit.
pub(super) struct Size(pub(super) RangeInclusive<u64>, pub(super) &'static str);

impl Describe for Size {
    fn value_name(&self) -> &'static str {
        "SIZE"
    }

    fn allowed(&self) -> String {
        format!(
            "{} to {} ({}; K, M, G are powers of 1024)",
            show_size(*self.0.start()),
            show_size(*self.0.end()),
            self.1
        )
    }
}

impl Kind<u64> for Size {
    fn read(&self, text: &str) -> Option<u64> {
        read_size(text).filter(|bytes| self.0.contains(bytes))
    }

    fn show(&self, value: &u64) -> Option<Value> {
        Some(Value::String(show_size(*value)))
    }
}

/// A threshold of free space: a size, or `auto`, computed from the size of the file system.
pub(super) struct FreeSpace;

impl Describe for FreeSpace {
    fn value_name(&self) -> &'static str {
        "SIZE"
    }

    fn allowed(&self) -> String {
        "auto or a size in bytes (0: off; K, M, G are powers of 1024)".into()
    }
}

impl Kind<Mark> for FreeSpace {
    fn read(&self, text: &str) -> Option<Mark> {
        match text.trim() {
            "auto" => Some(Mark::Auto),
            text => read_size(text).map(Mark::Bytes),
        }
    }

    fn show(&self, value: &Mark) -> Option<Value> {
        Some(Value::String(match value {
            Mark::Auto => "auto".to_owned(),
            Mark::Bytes(bytes) => show_size(*bytes),
        }))
    }
}

/// An address to listen on; port 0 lets the system choose.
pub(super) struct Listen;

impl Describe for Listen {
    fn value_name(&self) -> &'static str {
        "IP:PORT"
    }

    fn allowed(&self) -> String {
        "IP:PORT, such as 127.0.0.1:7900 or [::1]:7900".into()
    }
}

impl Kind<SocketAddr> for Listen {
    fn read(&self, text: &str) -> Option<SocketAddr> {
        text.trim().parse().ok()
    }

    fn show(&self, value: &SocketAddr) -> Option<Value> {
        Some(Value::String(value.to_string()))
    }
}

/// An address to listen on. An empty text: do not listen.
pub(super) struct OptionalListen;

impl Describe for OptionalListen {
    fn value_name(&self) -> &'static str {
        "IP:PORT"
    }

    fn allowed(&self) -> String {
        "IP:PORT, such as 127.0.0.1:11211, or empty".into()
    }
}

impl Kind<Option<SocketAddr>> for OptionalListen {
    fn read(&self, text: &str) -> Option<Option<SocketAddr>> {
        if text.trim().is_empty() {
            return Some(None);
        }
        text.trim().parse().ok().map(Some)
    }

    fn show(&self, value: &Option<SocketAddr>) -> Option<Value> {
        value.map(|address| Value::String(address.to_string()))
    }
}

/// Path of a folder; not empty.
pub(super) struct Folder;

impl Describe for Folder {
    fn value_name(&self) -> &'static str {
        "DIR"
    }

    fn allowed(&self) -> String {
        "the path of a folder".into()
    }
}

impl Kind<PathBuf> for Folder {
    fn read(&self, text: &str) -> Option<PathBuf> {
        (!text.is_empty()).then(|| text.into())
    }

    fn show(&self, value: &PathBuf) -> Option<Value> {
        Some(Value::String(value.display().to_string()))
    }
}

/// Path of a file. An empty text: not set.
pub(super) struct OptionalFile;

impl Describe for OptionalFile {
    fn value_name(&self) -> &'static str {
        "FILE"
    }

    fn allowed(&self) -> String {
        "the path of a file".into()
    }
}

impl Kind<Option<PathBuf>> for OptionalFile {
    fn read(&self, text: &str) -> Option<Option<PathBuf>> {
        Some((!text.is_empty()).then(|| text.into()))
    }

    fn show(&self, value: &Option<PathBuf>) -> Option<Value> {
        value.as_ref().map(|path| Value::String(path.display().to_string()))
    }
}

/// A name of at most 64 characters; may be empty.
pub(super) struct Name;

impl Describe for Name {
    fn value_name(&self) -> &'static str {
        "NAME"
    }

    fn allowed(&self) -> String {
        "at most 64 letters, digits, '-', '_' or '.'".into()
    }
}

impl Kind<String> for Name {
    fn read(&self, text: &str) -> Option<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (text.len() <= 64 && text.chars().all(allowed)).then(|| text.to_owned())
    }

    fn show(&self, value: &String) -> Option<Value> {
        Some(Value::String(value.clone()))
    }
}

/// A boolean.
pub(super) struct Switch;

impl Describe for Switch {
    fn value_name(&self) -> &'static str {
        "BOOL"
    }

    fn allowed(&self) -> String {
        "true or false".into()
    }

    fn shape(&self) -> Shape {
        Shape::Switch
    }
}

impl Kind<bool> for Switch {
    fn read(&self, text: &str) -> Option<bool> {
        match text.trim() {
            "true" | "1" | "yes" => Some(true),
            "false" | "0" | "no" => Some(false),
            _ => None,
        }
    }

    fn show(&self, value: &bool) -> Option<Value> {
        Some(Value::Boolean(*value))
    }
}

/// A [`SyncPolicy`].
pub(super) struct Durability;

impl Describe for Durability {
    fn value_name(&self) -> &'static str {
        "POLICY"
    }

    fn allowed(&self) -> String {
        "always, interval:MS (MS from 1 to 60000) or never".into()
    }
}

impl Kind<SyncPolicy> for Durability {
    fn read(&self, text: &str) -> Option<SyncPolicy> {
        let allowed = |policy: &SyncPolicy| match policy {
            SyncPolicy::Interval(ms) => (1..=60_000).contains(ms),
            SyncPolicy::Always | SyncPolicy::Never => true,
        };
        text.trim().parse().ok().filter(allowed)
    }

    fn show(&self, value: &SyncPolicy) -> Option<Value> {
        Some(Value::String(value.to_string()))
    }
}

/// A [`MergeWindow`].
pub(super) struct Window;

impl Describe for Window {
    fn value_name(&self) -> &'static str {
        "WINDOW"
    }

    fn allowed(&self) -> String {
        "always, never, or two times of the day in UTC such as 01:30-05:00".into()
    }
}

impl Kind<MergeWindow> for Window {
    fn read(&self, text: &str) -> Option<MergeWindow> {
        // The engine rejects an empty window.
        let allowed = |window: &MergeWindow| !matches!(window, MergeWindow::Daily(from, to) if from == to);
        text.trim().parse().ok().filter(allowed)
    }

    fn show(&self, value: &MergeWindow) -> Option<Value> {
        Some(Value::String(value.to_string()))
    }
}

/// An [`Index`].
pub(super) struct Keys;

impl Describe for Keys {
    fn value_name(&self) -> &'static str {
        "INDEX"
    }

    fn allowed(&self) -> String {
        "hash or ordered".into()
    }
}

impl Kind<Index> for Keys {
    fn read(&self, text: &str) -> Option<Index> {
        text.trim().parse().ok()
    }

    fn show(&self, value: &Index) -> Option<Value> {
        Some(Value::String(value.to_string()))
    }
}

/// A [`LogFormat`].
pub(super) struct Format;

impl Describe for Format {
    fn value_name(&self) -> &'static str {
        "FORMAT"
    }

    fn allowed(&self) -> String {
        "human or json".into()
    }
}

impl Kind<LogFormat> for Format {
    fn read(&self, text: &str) -> Option<LogFormat> {
        match text.trim() {
            "human" => Some(LogFormat::Human),
            "json" => Some(LogFormat::Json),
            _ => None,
        }
    }

    fn show(&self, value: &LogFormat) -> Option<Value> {
        let name = match value {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        };
        Some(Value::String(name.into()))
    }
}

/// A [`PairTakeover`].
pub(super) struct ByItself;

impl Describe for ByItself {
    fn value_name(&self) -> &'static str {
        "MODE"
    }

    fn allowed(&self) -> String {
        "manual or auto".into()
    }
}

impl Kind<PairTakeover> for ByItself {
    fn read(&self, text: &str) -> Option<PairTakeover> {
        match text.trim() {
            "manual" => Some(PairTakeover::Manual),
            "auto" => Some(PairTakeover::Auto),
            _ => None,
        }
    }

    fn show(&self, value: &PairTakeover) -> Option<Value> {
        let name = match value {
            PairTakeover::Manual => "manual",
            PairTakeover::Auto => "auto",
        };
        Some(Value::String(name.into()))
    }
}

/// A [`Redirect`].
pub(super) struct Elsewhere;

impl Describe for Elsewhere {
    fn value_name(&self) -> &'static str {
        "MODE"
    }

    fn allowed(&self) -> String {
        "proxy or moved".into()
    }
}

impl Kind<Redirect> for Elsewhere {
    fn read(&self, text: &str) -> Option<Redirect> {
        match text.trim() {
            "proxy" => Some(Redirect::Proxy),
            "moved" => Some(Redirect::Moved),
            _ => None,
        }
    }

    fn show(&self, value: &Redirect) -> Option<Value> {
        let name = match value {
            Redirect::Proxy => "proxy",
            Redirect::Moved => "moved",
        };
        Some(Value::String(name.into()))
    }
}

/// A [`Hidden`] text.
pub(super) struct Password;

impl Describe for Password {
    fn value_name(&self) -> &'static str {
        "PASSWORD"
    }

    fn allowed(&self) -> String {
        "a password of at most 512 bytes (empty: no password)".into()
    }
}

impl Kind<Hidden> for Password {
    fn read(&self, text: &str) -> Option<Hidden> {
        (text.len() <= 512).then(|| Hidden(text.to_owned()))
    }

    fn show(&self, _value: &Hidden) -> Option<Value> {
        None
    }
}

/// A [`ClientCertificates`].
pub(super) struct Certificates;

impl Describe for Certificates {
    fn value_name(&self) -> &'static str {
        "MODE"
    }

    fn allowed(&self) -> String {
        "no, optional or yes".into()
    }
}

impl Kind<ClientCertificates> for Certificates {
    fn read(&self, text: &str) -> Option<ClientCertificates> {
        match text.trim() {
            "no" => Some(ClientCertificates::No),
            "optional" => Some(ClientCertificates::Optional),
            "yes" => Some(ClientCertificates::Yes),
            _ => None,
        }
    }

    fn show(&self, value: &ClientCertificates) -> Option<Value> {
        let name = match value {
            ClientCertificates::No => "no",
            ClientCertificates::Optional => "optional",
            ClientCertificates::Yes => "yes",
        };
        Some(Value::String(name.into()))
    }
}

/// A level, or a filter of `tracing`.
pub(super) struct Filter;

impl Describe for Filter {
    fn value_name(&self) -> &'static str {
        "FILTER"
    }

    fn allowed(&self) -> String {
        "error, warn, info, debug, trace or off, or a filter such as info,caskade_node::net=debug".into()
    }
}

impl Kind<String> for Filter {
    fn read(&self, text: &str) -> Option<String> {
        // `tracing` takes a single unknown word as the name of a module, and would silence all other modules.
        let known = ["error", "warn", "info", "debug", "trace", "off"].contains(&text.trim());
        let filter = text.contains(['=', ':']) && tracing_subscriber::EnvFilter::try_new(text).is_ok();
        (known || filter).then(|| text.trim().to_owned())
    }

    fn show(&self, value: &String) -> Option<Value> {
        Some(Value::String(value.clone()))
    }
}

/// Addresses of peers: HOST:PORT or a multiaddr.
pub(super) struct Peers;

impl Peers {
    fn is_peer(text: &str) -> bool {
        if text.starts_with('/') {
            return text.parse::<Multiaddr>().is_ok();
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return false;
        };
        let host_is_plain = host.starts_with('[') == host.contains(':');
        let port_is_known = port.parse::<u16>().is_ok_and(|port| port != 0);
        !host.is_empty() && host_is_plain && port_is_known
    }
}

impl Describe for Peers {
    fn value_name(&self) -> &'static str {
        "HOST:PORT"
    }

    fn allowed(&self) -> String {
        "HOST:PORT or a multiaddr such as /dns4/db1/tcp/7901, several separated by commas".into()
    }

    fn shape(&self) -> Shape {
        Shape::List
    }
}

impl Kind<Vec<String>> for Peers {
    fn read(&self, text: &str) -> Option<Vec<String>> {
        let peers = text.split(',').map(str::trim).filter(|peer| !peer.is_empty());
        peers.map(|peer| Self::is_peer(peer).then(|| peer.to_owned())).collect()
    }

    fn show(&self, value: &Vec<String>) -> Option<Value> {
        Some(Value::Array(value.iter().cloned().map(Value::String).collect()))
    }

    fn read_all(&self, texts: &[String]) -> Option<Vec<String>> {
        let lists: Option<Vec<_>> = texts.iter().map(|text| self.read(text)).collect();
        Some(lists?.concat())
    }
}
