//! A network of Linux namespaces for one cluster: one namespace per node, and a router between them that can
//! drop the packets from one node to another, in one direction or in both.
//!
//! The test process stays in its own namespace and reaches every node through the router, whatever is cut
//! between the nodes: clients of an isolated node can still reach it. Cuts are routing rules (`blackhole`):
//! the router drops packets without an ICMP error. Needs `ip` (iproute2) and the permission to create
//! namespaces, as root has it. Dropping the network removes everything; the nodes must have ended before.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;

/// 198.18.0.0/15 is reserved for tests (RFC 2544) and not routed.
const FIRST_TWO: [(u8, u8); 2] = [(198, 18), (198, 19)];
/// Last byte of the router's address, the same on all its links.
const ROUTER: u8 = 253;
/// Last byte of the address of the test process.
const CLIENTS: u8 = 254;
const PLACES_MAX: u8 = 100;
/// Directory whose files `ip netns exec` mounts over `/etc` of a namespace.
const NAMES: &str = "/etc/netns";
/// Maximum number of tried /24 networks, if a network is used already.
const TRIES: usize = 8;

/// The namespace of one node, in which its commands run, and its address.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    namespace: String,
    address: Ipv4Addr,
}

impl Place {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Makes host names resolve to these addresses in the namespace. The first call affects programs started
    /// later; later calls affect running programs too.
    ///
    /// # Errors
    /// The hosts file cannot be written.
    pub(crate) fn set_names(&self, names: &[(String, IpAddr)]) -> Result<()> {
        let folder = Path::new(NAMES).join(&self.namespace);
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let lines = names.iter().map(|(name, address)| format!("{address} {name}\n"));
        // Overwrite the file in place, because running programs have it mounted.
        let path = folder.join("hosts");
        std::fs::write(&path, format!("127.0.0.1 localhost\n{}", lines.collect::<String>()))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Returns the command that runs `inner` in this namespace. `ip` executes the program in its own process,
    /// so that signals reach the program.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }
}

/// A router and the namespaces created so far. Dropping it removes all of them.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// The first three bytes of every address.
    prefix: (u8, u8, u8),
    router: Namespace,
    places: Vec<Namespace>,
    cuts: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The present address of each place.
    addresses: Vec<Ipv4Addr>,
    /// Number of addresses assigned so far.
    given: u8,
}

impl Network {
    /// Returns whether this machine permits such a network; if not, prints `SKIPPED` outside the captured
    /// output of the test.
    ///
    /// # Errors
    /// `ip` is not installed and `CASKADE_REQUIRE_TOOLS` is set.
    pub(crate) fn available() -> Result<bool> {
        let installed = match Command::new("ip").arg("-V").output() {
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            other => other.context("running ip")?.status.success(),
        };
        let reason = if installed {
            Self::new().and_then(|mut network| network.add_place()).err()
        } else {
            Some(anyhow::anyhow!("ip is not installed (Debian: iproute2)"))
        };
        let Some(reason) = reason else { return Ok(true) };
        if !installed && std::env::var_os("CASKADE_REQUIRE_TOOLS").is_some() {
            return Err(reason);
        }
        // Not by `eprintln!`: the test framework would capture it.
        writeln!(std::io::stderr(), "SKIPPED: no network of namespaces on this machine: {reason:#}")
            .context("saying that a test is skipped")?;
        Ok(false)
    }

    /// Creates the router, and the link and route from the test process to it.
    pub(crate) fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let mut tries_left = TRIES;
        loop {
            tries_left -= 1;
            let made = MADE.fetch_add(1, Ordering::Relaxed);
            match Self::with_prefix(made, random_prefix()) {
                Err(error) if tries_left > 0 && format!("{error:#}").contains("File exists") => {}
                outcome => return outcome,
            }
        }
    }

    fn with_prefix(number: u32, prefix: (u8, u8, u8)) -> Result<Self> {
        let process = std::process::id();
        let name = format!("caskade-{process}-{number}");
        let router = Namespace::new(format!("{name}-router"))?;
        let (places, cuts, addresses) = (Vec::new(), Vec::new(), Vec::new());
        let network = Self { name, prefix, router, places, cuts, addresses, given: 0 };
        // The system permits at most 15 bytes.
        let link = format!("ck{process}n{number}");
        let (router, clients, gate) = (&network.router.0, network.address(CLIENTS), network.address(ROUTER));
        ip(&format!("link add {link} type veth peer name clients netns {router}"))?;
        ip(&format!("addr add {clients} peer {gate} dev {link}"))?;
        ip(&format!("link set {link} up"))?;
        ip(&format!("route add {}/24 via {gate}", network.address(0)))?;
        network.connect("clients", clients)?;
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
        run_ip(["netns", "exec", router, "sh", "-c", forward])?;
        Ok(network)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(self.prefix.0, self.prefix.1, self.prefix.2, last)
    }

    /// Configures the router's end of a link to `peer`.
    fn connect(&self, link: &str, peer: Ipv4Addr) -> Result<()> {
        let router = &self.router.0;
        ip(&format!("-n {router} addr add {} peer {peer} dev {link}", self.address(ROUTER)))?;
        ip(&format!("-n {router} link set {link} up"))
    }

    /// Creates a namespace for another node. Its number is the number of namespaces before.
    pub(crate) fn add_place(&mut self) -> Result<Place> {
        let number = u8::try_from(self.places.len()).unwrap_or(u8::MAX);
        ensure!(number < PLACES_MAX, "a network has at most {PLACES_MAX} places");
        let place = Namespace::new(format!("{}-{number}", self.name))?;
        let (namespace, address) = (place.0.clone(), self.next_address()?);
        self.places.push(place);
        self.addresses.push(address);
        let (router, gate) = (&self.router.0, self.address(ROUTER));
        ip(&format!("-n {router} link add to{number} type veth peer name out netns {namespace}"))?;
        self.connect(&format!("to{number}"), address)?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} addr add {address} peer {gate} dev out"))?;
        ip(&format!("-n {namespace} link set out up"))?;
        ip(&format!("-n {namespace} route add default via {gate}"))?;
        Ok(Place { namespace, address })
    }

    fn next_address(&mut self) -> Result<Ipv4Addr> {
        ensure!(self.given < ROUTER - 1, "a network has at most {ROUTER} addresses");
        self.given += 1;
        Ok(self.address(self.given))
    }

    /// Moves a place to an address that no node had before. The router drops packets to the old address
    /// without an error.
    ///
    /// # Errors
    /// No place has this number, all addresses are used, or the system rejects the change.
    pub(crate) fn move_place(&mut self, number: usize, place: &mut Place) -> Result<()> {
        let (old, new) = (place.address, self.next_address()?);
        let (router, gate, namespace) = (&self.router.0, self.address(ROUTER), &place.namespace);
        ip(&format!("-n {router} addr del {gate} peer {old} dev to{number}"))?;
        ip(&format!("-n {router} addr add {gate} peer {new} dev to{number}"))?;
        ip(&format!("-n {router} route add blackhole {old}"))?;
        ip(&format!("-n {namespace} addr del {old} peer {gate} dev out"))?;
        ip(&format!("-n {namespace} addr add {new} peer {gate} dev out"))?;
        ip(&format!("-n {namespace} route replace default via {gate}"))?;
        let known =
            self.addresses.get_mut(number).with_context(|| format!("no place has the number {number}"))?;
        *known = new;
        place.address = new;
        Ok(())
    }

    /// Drops packets from place `from` to place `to` from now on, but not those in the other direction.
    ///
    /// # Errors
    /// No place has one of these numbers, or the system rejects the rule.
    pub fn cut(&mut self, from: usize, to: usize) -> Result<()> {
        let address = |place: usize| {
            self.addresses.get(place).copied().with_context(|| format!("the network has no place {place}"))
        };
        let (from, to) = (address(from)?, address(to)?);
        ip(&format!("-n {} rule add from {from} to {to} blackhole", self.router.0))?;
        self.cuts.push((from, to));
        Ok(())
    }

    /// Removes all cuts.
    ///
    /// # Errors
    /// The system rejects the removal of a rule.
    pub fn mend(&mut self) -> Result<()> {
        for (from, to) in self.cuts.drain(..) {
            ip(&format!("-n {} rule del from {from} to {to} blackhole", self.router.0))?;
        }
        Ok(())
    }
}

fn random_prefix() -> (u8, u8, u8) {
    let mut rng = rand::rng();
    let (first, second) = FIRST_TWO[rng.random_range(0..FIRST_TWO.len())];
    (first, second, rng.random())
}

/// A network namespace, by its name. Dropping it removes the namespace and all links into it.
#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        Ok(Self(name))
    }
}

impl Drop for Namespace {
    #[expect(clippy::print_stderr, reason = "reports a namespace that remains; a drop cannot fail")]
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {}", self.0)) {
            eprintln!("{error:#}");
        }
        // The directory exists only if names were set.
        let _ = std::fs::remove_dir_all(Path::new(NAMES).join(&self.0));
    }
}

/// Runs `ip` with these arguments, separated by single spaces.
fn ip(args: &str) -> Result<()> {
    run_ip(args.split(' '))
}

fn run_ip<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(args);
    let output = command.output().context("running ip")?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
