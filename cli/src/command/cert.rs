//! Certificates for a start: a CA in a folder, and certificates of nodes and clients signed by it.
//!
//! Keys are ECDSA P-256, their files readable by their owner only. Nothing that is there is overwritten. The CA is only
//! one made by this command: its name is always the same, so that its key alone is enough to sign.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::args::CertCommand;
use crate::exit::Exit;
use crate::output::Output;

const CA_NAME: &str = "Caskade CA";
const CA_DAYS: u32 = 3650;
/// Clocks of others may be behind.
const BEFORE: Duration = Duration::from_secs(3600);

/// Makes what is asked for, and tells which files that are.
pub(crate) fn run(command: &CertCommand, out: &mut Output) -> anyhow::Result<Exit> {
    let (dir, name, made) = match command {
        CertCommand::Ca { dir } => (dir, "ca".to_owned(), make_ca()?),
        CertCommand::Node { dir, names, days } => {
            let name = names.first().context("a node needs a name")?;
            let made = make_signed(dir, name, names, *days, ExtendedKeyUsagePurpose::ServerAuth)?;
            (dir, file_name(name)?, made)
        }
        CertCommand::Client { dir, name, days } => {
            let made = make_signed(dir, name, &[], *days, ExtendedKeyUsagePurpose::ClientAuth)?;
            (dir, file_name(name)?, made)
        }
    };
    let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    for path in [&cert, &key] {
        ensure!(
            !path.exists(),
            "{} is there already, and nothing was written; move it away first",
            path.display()
        );
    }
    write(&key, 0o600, &made.key)?;
    write(&cert, 0o644, &made.cert)?;
    tell(&cert, &key, out)?;
    Ok(Exit::Done)
}

fn tell(cert: &Path, key: &Path, out: &mut Output) -> anyhow::Result<()> {
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    out.either(&format!("{cert}\n{key}"), &serde_json::json!({ "cert": cert, "key": key }))?;
    Ok(())
}

/// A certificate and its key, as PEM.
struct Made {
    cert: String,
    key: String,
}

fn make_ca() -> anyhow::Result<Made> {
    let key = KeyPair::generate().context("no key can be made")?;
    let cert = ca_params().self_signed(&key).context("the CA cannot be made")?;
    Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
}

fn ca_params() -> CertificateParams {
    let mut params = params(CA_NAME, CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn make_signed(
    dir: &Path,
    name: &str,
    names: &[String],
    days: u32,
    usage: ExtendedKeyUsagePurpose,
) -> anyhow::Result<Made> {
    let path = dir.join("ca.key");
    let ca_key = std::fs::read_to_string(&path).with_context(|| {
        format!("{} cannot be read; make a CA with: caskctl cert ca --dir DIR", path.display())
    })?;
    let ca_key = KeyPair::from_pem(&ca_key).with_context(|| format!("{} is no key", path.display()))?;
    // Only its name and its key go into what it signs, and both are those of the certificate that is there.
    let ca = ca_params().self_signed(&ca_key).context("the CA cannot be used")?;
    let key = KeyPair::generate().context("no key can be made")?;
    let mut params = params(name, days);
    params.subject_alt_names =
        CertificateParams::new(names).context("a name is no host name and no address")?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let cert = params.signed_by(&key, &ca, &ca_key).context("the certificate cannot be made")?;
    Ok(Made { cert: cert.pem(), key: key.serialize_pem() })
}

fn params(name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BEFORE);
    params.not_after = epoch + now + Duration::from_secs(u64::from(days) * 86_400);
    params
}

/// A name as part of a file's name: an address, or letters, digits and what host names have.
fn file_name(name: &str) -> anyhow::Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = name.parse::<IpAddr>().is_ok()
        || (name.chars().all(plain) && !name.starts_with('.') && !name.is_empty() && name != "ca");
    ensure!(fits, "'{name}' cannot be the name of a file: letters, digits, '-', '_' and '.' can");
    Ok(name.replace(':', "_"))
}

fn write(path: &PathBuf, mode: u32, text: &str) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })
    .with_context(|| format!("{} cannot be written", path.display()))
}
