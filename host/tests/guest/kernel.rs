//! A Debian release's own kernel: fetched by the machine's apt, verified by it, cached with the modules that tests need.
//!
//! The release's index is read into folders of our own, from the mirror and with the keys that the machine's apt has, so
//! nothing of the machine's own package lists changes. No version is written here: what is cached is rebuilt when it is
//! incomplete, made by another list of modules, or a week old and no longer the release's newest.

use std::collections::HashSet;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// What apt calls the package that requires the release's newest kernel.
const META: &str = "linux-image-amd64";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const FRESH: Duration = Duration::from_secs(7 * 24 * 3600);
/// What the tests make, by the kernel's names.
const MODULES: [&str; 8] = ["veth", "dummy", "bridge", "tun", "fuse", "vxlan", "macvlan", "ifb"];

/// A kernel that can be booted.
pub struct Kernel {
    pub image: PathBuf,
    /// Unpacked modules, in the order in which they are to be loaded.
    pub modules: Vec<PathBuf>,
    /// The package and its version.
    pub package: String,
}

/// The newest kernel of the release, from the cache or the mirror.
pub fn of(suite: &str) -> Result<Kernel, String> {
    let home = cache().join("kernels").join(suite);
    fs::create_dir_all(&home).map_err(|e| format!("{}: {e} (PERNET_TEST_CACHE moves it)", home.display()))?;
    // Two checkouts at once: the second one finds what the first one made.
    let lock = File::create(home.join("lock")).map_err(|e| format!("{}: {e}", home.display()))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| format!("{}: {e}", home.display()))?;
    let cached = Kernel::cached(&home);
    let age = fs::metadata(home.join("made")).and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
    if cached.is_some() && age.is_some_and(|age| age < FRESH) {
        return cached.ok_or_else(String::new);
    }
    match (newest(suite, &home), cached) {
        (Ok(newest), Some(cached)) if cached.package == newest.join("=") => {
            write(&home.join("made"), &marker(&cached.package))?;
            Ok(cached)
        }
        (Ok(newest), _) => make(&home, &newest),
        (Err(why), Some(cached)) => {
            eprintln!("older_kernels: {suite}: {} may not be the newest: {why}", cached.package);
            Ok(cached)
        }
        (Err(why), None) => Err(why),
    }
}

fn cache() -> PathBuf {
    env::var_os("PERNET_TEST_CACHE").map_or_else(|| PathBuf::from("/var/cache/pernetd-tests"), PathBuf::from)
}

impl Kernel {
    /// What was made whole: the marker is written last.
    fn cached(home: &Path) -> Option<Kernel> {
        let made = fs::read_to_string(home.join("made")).ok()?;
        let package = made.lines().next()?.to_owned();
        let order = fs::read_to_string(home.join("load")).ok()?;
        let modules: Vec<PathBuf> = order.lines().map(|file| home.join(file)).collect();
        let image = home.join("vmlinuz");
        let whole = image.exists() && modules.iter().all(|file| file.exists());
        (whole && made == marker(&package)).then_some(Kernel { image, modules, package })
    }
}

fn marker(package: &str) -> String {
    format!("{package}\n{}\n", MODULES.join(" "))
}

/// apt, with lists and a cache of our own.
fn apt(program: &str, home: &Path) -> Command {
    let apt = home.join("apt");
    let mut command = Command::new(program);
    let own = [
        ("Dir::State", apt.clone()),
        ("Dir::State::status", apt.join("status")),
        ("Dir::Cache", apt.clone()),
        ("Dir::Etc::SourceList", apt.join("sources.list")),
        ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
    ];
    for (key, value) in own {
        command.arg("-o").arg(format!("{key}={}", value.display()));
    }
    command.args(["-qq", "-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64"]);
    command.args(["-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=", "-o", "Acquire::http::Timeout=20"]);
    command.env("LC_ALL", "C").current_dir(home);
    command
}

/// The newest kernel's package and version, by the release's signed index.
fn newest(suite: &str, home: &Path) -> Result<[String; 2], String> {
    let lists = home.join("apt");
    for folder in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(lists.join(folder)).map_err(|e| format!("{}: {e}", lists.display()))?;
    }
    write(&lists.join("status"), "")?;
    write(&lists.join("sources.list"), &sources(suite)?)?;
    said(apt("apt-get", home).args(["--error-on=any", "update"]))?;
    let depends = said(apt("apt-cache", home).args(["depends", META]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.ok_or_else(|| format!("{META} of {suite} requires no kernel:\n{depends}"))?.to_owned();
    let shown = said(apt("apt-cache", home).args(["show", "--no-all-versions", &package]))?;
    let version = shown.lines().find_map(|line| line.strip_prefix("Version: "));
    Ok([package, version.ok_or_else(|| format!("no version of it:\n{shown}"))?.to_owned()])
}

/// The release and its security updates, from where the machine's apt has its own.
fn sources(suite: &str) -> Result<String, String> {
    let format = "$(ORIGIN) $(COMPONENT) $(LABEL) $(REPO_URI)";
    let known = said(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let mirror = |label: &str| known.lines().find_map(|line| line.strip_prefix(&format!("Debian main {label} ")));
    let main = mirror("Debian").ok_or("this machine's apt has no mirror of Debian")?;
    let mut lines = format!("deb [signed-by={KEYS}] {main} {suite} main\n");
    if let Some(security) = mirror("Debian-Security") {
        lines += &format!("deb [signed-by={KEYS}] {security} {suite}-security main\n");
    }
    Ok(lines)
}

/// Downloads and unpacks the package, and puts in `home` what a boot needs of it.
fn make(home: &Path, newest: &[String; 2]) -> Result<Kernel, String> {
    let package = newest.join("=");
    eprintln!("older_kernels: fetching {package}");
    let work = home.join("unpacked");
    let _ = fs::remove_file(home.join("made"));
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    said(apt("apt-get", home).args(["download", &package]).current_dir(&work))?;
    let deb = files(&work)?.pop().ok_or_else(|| format!("{package}: nothing was downloaded"))?;
    said(Command::new("dpkg-deb").arg("-x").args([&deb, &work]))?;
    let image = find(&work.join("boot"), "vmlinuz-")?;
    let release = image.file_name().unwrap_or_default().to_string_lossy().replace("vmlinuz-", "");
    if !work.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", work.join("lib")).map_err(|e| format!("{}: {e}", work.display()))?;
    }
    said(Command::new("depmod").arg("-b").arg(&work).arg(&release))?;
    let order = unpack_modules(&work.join("lib/modules").join(&release), &home.join("modules"))?;
    copy(&image, &home.join("vmlinuz"))?;
    write(&home.join("load"), &order.join("\n"))?;
    write(&home.join("made"), &marker(&package))?;
    let _ = fs::remove_dir_all(&work);
    Kernel::cached(home).ok_or_else(|| format!("{}: {package} was not made whole", home.display()))
}

/// Puts the modules and what each needs into a folder; their names in the order of loading.
fn unpack_modules(from: &Path, to: &Path) -> Result<Vec<String>, String> {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).map_err(|e| format!("{}: {e}", to.display()))?;
    let read = |file: &str| fs::read_to_string(from.join(file)).map_err(|e| format!("{file}: {e}"));
    let (depends, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let (mut order, mut seen) = (Vec::new(), HashSet::new());
    for module in MODULES {
        let is = |path: &str| path.rsplit('/').next().and_then(|file| file.split('.').next()) == Some(module);
        let line = depends.lines().find(|line| line.split(':').next().is_some_and(is));
        if line.is_none() && !builtin.lines().any(is) {
            return Err(format!("this kernel has no module {module}"));
        }
        // What a module needs stands behind it, the deepest last.
        for path in line.unwrap_or("").split([':', ' ']).filter(|path| !path.is_empty()).rev() {
            if seen.insert(path.to_owned()) {
                order.push(unpack_module(&from.join(path), to)?);
            }
        }
    }
    Ok(order)
}

fn unpack_module(from: &Path, to: &Path) -> Result<String, String> {
    let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
    copy(from, &to.join(&name))?;
    let Some(plain) = name.strip_suffix(".xz") else { return Ok(format!("modules/{name}")) };
    said(Command::new("xz").args(["-d", "-f"]).arg(to.join(&name)))?;
    Ok(format!("modules/{plain}"))
}

/// Runs a program that must end well; what it said.
pub fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let read = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(read.flatten().map(|entry| entry.path()).collect())
}

fn find(folder: &Path, prefix: &str) -> Result<PathBuf, String> {
    let is = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    files(folder)?.into_iter().find(is).ok_or_else(|| format!("{}: no {prefix}", folder.display()))
}

pub fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}

pub fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
