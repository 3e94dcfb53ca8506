//! What a booted kernel finds: the test binaries, the daemon and plugins where the build has them, and the programs and
//! libraries that they need, from this machine. The first process is busybox with a script.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kernel::{Kernel, copy, said, write};

/// Programs that the tests call; busybox has the rest. Its own shell would run its own `mount`, whatever is in `PATH`.
const PROGRAMS: [&str; 15] = [
    "busybox", "sh", "bash", "ip", "ping", "cat", "env", "grep", "tar", "find", "mount", "umount", "ls", "prlimit",
    "setpriv",
];
const FIRST: &str = include_str!("first.sh");
const INIT: &str = include_str!("init.sh");

/// A theme's test binary.
#[derive(Clone, Debug)]
pub struct Theme {
    pub name: String,
    pub binary: PathBuf,
}

/// Builds the themes, the daemon and the probes, as this test was built, and tells where the themes' binaries are.
pub fn build(names: &[&str]) -> Result<Vec<Theme>, String> {
    let cargo = || {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", target());
        cargo
    };
    let release: &[&str] = if cfg!(debug_assertions) { &[] } else { &["--release"] };
    said(cargo().args(["build", "-q", "-p", "pernetd", "--bins", "--examples"]).args(release))?;
    let mut test = cargo();
    test.args(["test", "-q", "-p", "pernetd", "--no-run", "--message-format=json"]).args(release);
    test.args(names.iter().flat_map(|name| ["--test", *name]));
    let built = said(&mut test)?;
    let messages = built.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let binaries: Vec<_> = messages
        .filter_map(|m| Some((m["target"]["name"].as_str()?.to_owned(), PathBuf::from(m["executable"].as_str()?))))
        .collect();
    let of = |name: &&str| {
        let found = binaries.iter().find(|(built, _)| built == name);
        let (name, binary) = found.cloned().ok_or_else(|| format!("cargo built no binary of the theme {name}"))?;
        Ok(Theme { name, binary })
    };
    names.iter().map(of).collect()
}

/// `target`: this binary is target/<profile>/deps/<name>.
fn target() -> PathBuf {
    let exe = env::current_exe().unwrap_or_default();
    exe.ancestors().nth(3).unwrap_or(Path::new("target")).to_owned()
}

/// The archive that every kernel gets: all but its modules.
pub fn base(themes: &[Theme], to: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| format!("a folder: {e}"))?;
    let root = Root(folder.path());
    root.skeleton()?;
    for program in PROGRAMS {
        let path = said(Command::new("sh").args(["-c", &format!("command -v {program}")]))
            .map_err(|_| format!("the program {program} is not installed"))?;
        let real = fs::canonicalize(path.trim()).map_err(|e| format!("{program}: {e}"))?;
        root.program(&real, &Path::new("/usr/bin").join(program))?;
    }
    root.applets()?;
    let profile = profile();
    let daemon = [env!("CARGO_BIN_EXE_pernetd"), env!("CARGO_BIN_EXE_pernetctl")].map(PathBuf::from);
    let plugins = ["loopback", "neighbour", "sysctl", "wire"];
    let plugins = plugins.map(|plugin| profile.join(format!("deps/libpernet_{plugin}.so")));
    let all = themes.iter().map(|theme| theme.binary.clone()).chain(daemon).chain(plugins).chain(probes(&profile)?);
    for file in all {
        root.stripped(&file)?;
    }
    // The sandbox looks for the checkout.
    root.folder(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    let list: String = themes.iter().map(|t| format!("{} {}\n", t.name, t.binary.display())).collect();
    write(&root.at(Path::new("/themes")), &list)?;
    archive(root.0, to)
}

fn profile() -> PathBuf {
    let exe = env::current_exe().unwrap_or_default();
    exe.ancestors().nth(2).unwrap_or(Path::new("target/debug")).to_owned()
}

/// The recording plugins. Each exists twice: the copy with a hash in its name is the build's own.
fn probes(profile: &Path) -> Result<Vec<PathBuf>, String> {
    let folder = profile.join("examples");
    let read = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let is = |name: &str| name.starts_with("libprobe_") && name.ends_with(".so") && !name.contains('-');
    let files = read.flatten().filter(|file| is(&file.file_name().to_string_lossy()));
    Ok(files.map(|file| file.path()).collect())
}

/// The base with a kernel's modules, in the order of loading: archives may follow each other.
pub fn of(kernel: &Kernel, base: &Path, to: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| format!("a folder: {e}"))?;
    let root = Root(folder.path());
    root.folder(Path::new("/modules"))?;
    for (at, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        copy(module, &root.at(Path::new(&format!("/modules/{at:02}-{name}"))))?;
    }
    archive(root.0, to)?;
    let modules = fs::read(to).map_err(|e| format!("{}: {e}", to.display()))?;
    copy(base, to)?;
    let mut both = File::options().append(true).open(to).map_err(|e| format!("{}: {e}", to.display()))?;
    both.write_all(&modules).map_err(|e| format!("{}: {e}", to.display()))
}

/// Uncompressed: an emulated processor would take longer to unpack it than to read it.
fn archive(root: &Path, to: &Path) -> Result<(), String> {
    let out = File::create(to).map_err(|e| format!("{}: {e}", to.display()))?;
    let mut command = Command::new("sh");
    command.args(["-c", "find . | cpio -o -H newc -R 0:0 --quiet"]).current_dir(root).stdout(out);
    let output = command.stderr(Stdio::piped()).output().map_err(|e| format!("cpio: {e}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() && complaint.is_empty() { Ok(()) } else { Err(format!("cpio: {complaint}")) }
}

/// The folder that becomes the root of the booted kernel.
struct Root<'a>(&'a Path);

impl Root<'_> {
    fn at(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn folder(&self, path: &Path) -> Result<(), String> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(self.at(path));
        made.map_err(|e| format!("{}: {e}", path.display()))
    }

    fn skeleton(&self) -> Result<(), String> {
        for path in ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/dev", "/etc", "/proc", "/sys", "/run", "/tmp"]
        {
            self.folder(Path::new(path))?;
        }
        for path in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{path}"), self.0.join(path)).map_err(|e| format!("{path}: {e}"))?;
        }
        write(&self.at(Path::new("/etc/passwd")), "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
        write(&self.at(Path::new("/etc/group")), "root:x:0:\nnogroup:x:65534:\n")?;
        for (path, text) in [("/init", FIRST), ("/main", INIT)] {
            write(&self.at(Path::new(path)), text)?;
            self.executable(Path::new(path))?;
        }
        Ok(())
    }

    /// What busybox is besides, where there is no program of this name: links to it.
    fn applets(&self) -> Result<(), String> {
        for applet in said(Command::new("busybox").arg("--list"))?.lines() {
            let link = self.at(&Path::new("/usr/bin").join(applet));
            if !link.exists() {
                symlink("busybox", &link).map_err(|e| format!("{applet}: {e}"))?;
            }
        }
        Ok(())
    }

    fn executable(&self, path: &Path) -> Result<(), String> {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.at(path), mode).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// A program of this machine's, with what it is linked to.
    fn program(&self, from: &Path, to: &Path) -> Result<(), String> {
        copy(from, &self.at(to))?;
        self.executable(to)?;
        self.libraries(from)
    }

    /// A file of the build's, at its own place, without the symbols that make it large.
    fn stripped(&self, file: &Path) -> Result<(), String> {
        self.folder(file.parent().unwrap_or(file))?;
        said(Command::new("strip").arg("--strip-unneeded").arg("-o").arg(self.at(file)).arg(file))?;
        self.executable(file)?;
        self.libraries(file)
    }

    fn libraries(&self, of: &Path) -> Result<(), String> {
        // A program that is linked to nothing is refused: it needs nothing.
        let listed = said(Command::new("ldd").arg(of)).unwrap_or_default();
        let paths: BTreeSet<&str> = listed.split_whitespace().filter(|word| word.starts_with('/')).collect();
        for path in paths.into_iter().map(Path::new).filter(|path| !self.at(path).exists()) {
            self.folder(path.parent().unwrap_or(path))?;
            copy(path, &self.at(path))?;
            self.executable(path)?;
        }
        Ok(())
    }
}
