//! A network for one cluster, of Linux namespaces: each node in one of its own, a router between them that can be told
//! to drop what one node sends to another, in one direction or in both.
//!
//! The test's process stays where it is and reaches every node through the router, whatever is cut between the nodes:
//! so the clients of a node that is cut off are still its clients. Cuts are routing rules (`blackhole`): packets
//! vanish, and nobody is told. Needs `ip` (iproute2) and the right to make namespaces, as root has it.
//! Everything is removed when it is dropped; the nodes must have ended by then.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;

/// The networks 198.18.0.0/15 are set apart for tests like this (RFC 2544): nobody routes them.
const FIRST_TWO: [(u8, u8); 2] = [(198, 18), (198, 19)];
/// The router's own address, the same on all its links.
const ROUTER: u8 = 253;
/// The test's process.
const CLIENTS: u8 = 254;
const PLACES_MAX: u8 = 100;
/// Where `ip netns exec` looks for what it mounts over `/etc` of a namespace.
const NAMES: &str = "/etc/netns";
/// How often another /24 is tried when this one is used already.
const TRIES: usize = 8;

/// Where one node is: commands run there, and its address.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    namespace: String,
    address: Ipv4Addr,
}

impl Place {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Has names mean these addresses there, in programs started there from now on; those that run see later changes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn set_names(&self, names: &[(String, IpAddr)]) -> Result<()> {
        let folder = Path::new(NAMES).join(&self.namespace);
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let lines = names.iter().map(|(name, address)| format!("{address} {name}\n"));
        // In place: programs that run have this very file mounted.
        let path = folder.join("hosts");
        std::fs::write(&path, format!("127.0.0.1 localhost\n{}", lines.collect::<String>()))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// The same command, run in this place. `ip` becomes the program, so that signals reach it.
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

/// A router and the places that were made so far. Dropped, all is removed.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// The first three bytes of every address in it.
    prefix: (u8, u8, u8),
    router: Namespace,
    places: Vec<Namespace>,
    cuts: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The present address of each place.
    addresses: Vec<Ipv4Addr>,
    /// How many addresses were given out.
    given: u8,
}

impl Network {
    /// Whether this machine can have one; if it cannot, says so where a test's output is not held back.
    ///
    /// # Errors
    /// If `ip` is not installed although `CASKADE_REQUIRE_TOOLS` is set.
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
        // Not by a macro: the test framework would keep it to itself.
        writeln!(std::io::stderr(), "SKIPPED: no network of namespaces on this machine: {reason:#}")
            .context("saying that a test is skipped")?;
        Ok(false)
    }

    /// The router, and the way from here to it.
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
        // At most 15 bytes, as the system wants it.
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

    /// The router's end of a link to `peer`.
    fn connect(&self, link: &str, peer: Ipv4Addr) -> Result<()> {
        let router = &self.router.0;
        ip(&format!("-n {router} addr add {} peer {peer} dev {link}", self.address(ROUTER)))?;
        ip(&format!("-n {router} link set {link} up"))
    }

    /// A place for one node more. Its number is how many there were before.
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

    /// Moves a place to an address that nobody had before. What is sent to the old one is lost, and nobody is told.
    ///
    /// # Errors
    /// If there is no such place, addresses are short, or the system refuses.
    pub(crate) fn move_place(&mut self, number: usize, place: &mut Place) -> Result<()> {
        let (old, new) = (place.address, self.next_address()?);
        let (router, gate, namespace) = (&self.router.0, self.address(ROUTER), &place.namespace);
        ip(&format!("-n {router} addr del {gate} peer {old} dev to{number}"))?;
        ip(&format!("-n {router} addr add {gate} peer {new} dev to{number}"))?;
        ip(&format!("-n {router} route add blackhole {old}"))?;
        ip(&format!("-n {namespace} addr del {old} peer {gate} dev out"))?;
        ip(&format!("-n {namespace} addr add {new} peer {gate} dev out"))?;
        ip(&format!("-n {namespace} route replace default via {gate}"))?;
        let known = self.addresses.get_mut(number).with_context(|| format!("there is no place {number}"))?;
        *known = new;
        place.address = new;
        Ok(())
    }

    /// From now on, what place `from` sends to place `to` is lost; not what it receives from there.
    ///
    /// # Errors
    /// If there are no such places, or the system refuses.
    pub fn cut(&mut self, from: usize, to: usize) -> Result<()> {
        let address = |place: usize| {
            self.addresses.get(place).copied().with_context(|| format!("the network has no place {place}"))
        };
        let (from, to) = (address(from)?, address(to)?);
        ip(&format!("-n {} rule add from {from} to {to} blackhole", self.router.0))?;
        self.cuts.push((from, to));
        Ok(())
    }

    /// Ends all cuts.
    ///
    /// # Errors
    /// If the system refuses.
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

/// A network namespace, by its name. Dropped, it is removed with all links into it.
#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        Ok(Self(name))
    }
}

impl Drop for Namespace {
    #[expect(clippy::print_stderr, reason = "what is left behind has to be said; a drop cannot fail")]
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns del {}", self.0)) {
            eprintln!("{error:#}");
        }
        // There is none, where no names were set.
        let _ = std::fs::remove_dir_all(Path::new(NAMES).join(&self.0));
    }
}

/// Runs `ip` with these arguments, none of which has a space in it.
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
