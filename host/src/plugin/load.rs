//! Code in memory: mapped once per content, its ABI checked, and there for ever.
//!
//! Mirrors a module's code between `load_module` and never: a replaced plugin is *retired*, not unmapped, because Rust
//! code cannot be unmapped safely (thread-local destructors, threads, statics that others point to). The same content
//! is mapped once, whatever its path; instances are made from it ([`super::instance`]). What retirement leaves behind
//! is counted.
//!
//! The ABI is checked through `LibHeader`, in both directions: an old plugin's tables are shorter than the host's, a
//! new plugin's are longer, and both run.

// Reads a symbol and turns the erased root module into its type.
#![allow(unsafe_code)]

use super::PluginError;
use super::call::Hook;
use super::file::PluginFile;
use super::mapping::{MapError, map};
use super::note::Note;
use super::running::Guard;
use super::status::failure_of;
use crate::engine::Failure;
use abi_stable::StableAbi;
use abi_stable::abi_stability::check_layout_compatibility;
use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use abi_stable::type_layout::TypeLayout;
use libloading::os::unix::Library;
use pernet_plugin_api::abi::{API_MAJOR, PluginModRef};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A plugin's code, mapped for the rest of the process's life.
pub struct Code {
    /// The plugin's name.
    pub name: Arc<str>,
    /// SHA-256 of the file that it came from.
    pub sha256: String,
    /// What the file said about itself.
    pub note: Note,
    /// Where the file was when it was loaded.
    pub path: PathBuf,
    pub(super) module: PluginModRef,
    pub(super) instances: AtomicUsize,
}

/// A plugin's configuration that the plugin itself refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRefusal {
    /// The field as `a.b[2].c`; empty where it concerns the whole.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

/// Why mapped code cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbiError {
    /// The entry was there in the file, but the dynamic loader does not find it.
    #[error("its entry symbol cannot be resolved ({0}): rebuild it")]
    Entry(String),
    /// Another ABI library, or another C ABI.
    #[error("its ABI header is another one ({0}): rebuild it with the plugin interface {API_MAJOR}.x")]
    Header(String),
    /// Another major version.
    #[error("its tables are of plugin interface {0}, this daemon has {API_MAJOR}.x: rebuild it")]
    Version(String),
    /// Tables or types differ in a way that no version allows.
    #[error("its tables do not match the plugin interface ({0}): rebuild it with an unmodified interface")]
    Layout(String),
    /// The code that makes the root module failed.
    #[error("its root module could not be made ({0}): this is a fault of the plugin")]
    Constructor(String),
}

/// What is known of one content.
enum Mapped {
    Good(Arc<Code>),
    /// Mapped, refused, and still there: asking again must not map it again.
    Bad(AbiError),
}

/// Everything that was ever mapped, by content. Its lock also lets only one thread load at a time.
#[derive(Default)]
struct Mappings {
    by_sha256: BTreeMap<String, Mapped>,
    folder: Option<PathBuf>,
}

static MAPPINGS: Mutex<Option<Mappings>> = Mutex::new(None);

fn mappings() -> MutexGuard<'static, Option<Mappings>> {
    MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where code goes on a system that does not let a memfd be executed: a folder of the daemon's own, not on a `noexec`
/// file system.
pub fn use_folder_where_memfd_is_refused(folder: PathBuf) {
    mappings().get_or_insert_default().folder = Some(folder);
}

/// How many mappings no instance uses: what retired generations left behind.
#[must_use]
pub fn retired_generations() -> usize {
    let guard = mappings();
    let all = guard.iter().flat_map(|m| m.by_sha256.values());
    all.filter(|m| match m {
        Mapped::Good(code) => code.instances.load(Ordering::Relaxed) == 0,
        Mapped::Bad(_) => true,
    })
    .count()
}

/// The mapped code that no instance uses.
#[must_use]
pub fn retired() -> Vec<Arc<Code>> {
    let guard = mappings();
    let all = guard.iter().flat_map(|m| m.by_sha256.values());
    all.filter_map(|m| match m {
        Mapped::Good(code) if code.instances.load(Ordering::Relaxed) == 0 => Some(Arc::clone(code)),
        _ => None,
    })
    .collect()
}

impl Code {
    /// Maps a file's code and checks its ABI; the same content is mapped once.
    ///
    /// # Errors
    /// The bytes cannot be mapped, or their ABI is not this host's. The constructors of the file may have run.
    pub fn load(file: &PluginFile) -> Result<Arc<Code>, PluginError> {
        let abi = |source| PluginError::Abi { path: file.path.clone(), source };
        let mut guard = mappings();
        let mappings = guard.get_or_insert_default();
        match mappings.by_sha256.get(&file.sha256) {
            Some(Mapped::Good(code)) => return Ok(Arc::clone(code)),
            Some(Mapped::Bad(error)) => return Err(abi(error.clone())),
            None => {}
        }
        let _hook = Guard::without_instance(&Arc::from(file.note.name.as_str()), Hook::Load);
        let library = map(file, mappings.folder.as_deref())
            .map_err(|source: MapError| PluginError::Load { path: file.path.clone(), source })?;
        let checked = catch_unwind(AssertUnwindSafe(|| root_module(library)))
            .unwrap_or_else(|_| Err(AbiError::Header("its check panicked".into())));
        let known = match checked {
            Ok(module) => Mapped::Good(Arc::new(Code::new(file, module))),
            Err(error) => Mapped::Bad(error),
        };
        let result = match &known {
            Mapped::Good(code) => Ok(Arc::clone(code)),
            Mapped::Bad(error) => Err(abi(error.clone())),
        };
        mappings.by_sha256.insert(file.sha256.clone(), known);
        result
    }

    fn new(file: &PluginFile, module: PluginModRef) -> Self {
        Code {
            name: Arc::from(file.note.name.as_str()),
            sha256: file.sha256.clone(),
            note: file.note.clone(),
            path: file.path.clone(),
            module,
            instances: AtomicUsize::new(0),
        }
    }

    /// Asks the plugin whether a configuration (JSON) is right, without any effect.
    ///
    /// # Errors
    /// The plugin's refusal, with the field that it concerns.
    pub fn check_config(&self, json: &str) -> Result<(), ConfigRefusal> {
        let _hook = Guard::without_instance(&self.name, Hook::Check);
        let answer = self.module.check_config()(json.into());
        match failure_of(&answer.status) {
            None => Ok(()),
            Some(failure) => Err(ConfigRefusal { field: answer.field.into_string(), message: told(failure) }),
        }
    }
}

fn told(failure: Failure) -> String {
    if failure.panicked {
        format!("the plugin panicked while checking it: {}", failure.message)
    } else {
        failure.message
    }
}

/// From a mapped library to its tables.
fn root_module(library: Library) -> Result<PluginModRef, AbiError> {
    // SAFETY: the symbol's type: the export macro defines this name as a `LibHeader`, whose first field is the
    // `AbiHeader` that an `AbiHeaderRef` points to; `upgrade` looks at its magic before anything else.
    let symbol = unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) };
    let header = *symbol.map_err(|e| AbiError::Entry(e.to_string()))?;
    // From here on there are references into the library that live as long as the process.
    std::mem::forget(library);
    let header = header.upgrade().map_err(|e| AbiError::Header(one_line(&e.to_string())))?;
    check_version(header)?;
    check_layout(header)?;
    // SAFETY: the root module has the layout of `PluginModRef`, or one that is a prefix of it or it of that one:
    // `check_layout` has just found so. Accessors look at the module's own field map.
    let module = unsafe { header.unchecked_layout::<PluginModRef>() };
    module.map_err(|e| AbiError::Constructor(one_line(&e.to_string())))
}

/// Versions are our own check: the layout's knows none.
fn check_version(header: &LibHeader) -> Result<(), AbiError> {
    let version = header.version_strings().version.as_str();
    let major = version.split('.').next().and_then(|m| m.parse::<u32>().ok());
    if major == Some(API_MAJOR) { Ok(()) } else { Err(AbiError::Version(version.to_owned())) }
}

fn check_layout(header: &LibHeader) -> Result<(), AbiError> {
    let host: &'static TypeLayout = <PluginModRef as StableAbi>::LAYOUT;
    let Some(plugin) = header.layout() else { return Err(AbiError::Layout("it carries no layout".into())) };
    // The check passes if the second has at least the first's fields: one direction for either's being newer.
    let forward = check_layout_compatibility(host, plugin).into_result();
    let Err(report) = forward else { return Ok(()) };
    match check_layout_compatibility(plugin, host).into_result() {
        Ok(()) => Ok(()),
        Err(_) => {
            let full = report.to_string();
            tracing::debug!("the layouts of plugin and host differ: {full}");
            Err(AbiError::Layout(short_report(&full)))
        }
    }
}

/// The report has some hundred lines; its `Error:` lines, with what follows them, say it all.
fn short_report(full: &str) -> String {
    let lines: Vec<&str> = full.lines().map(str::trim).collect();
    let errors = lines.iter().filter(|l| l.starts_with("Error:") && l.len() > "Error:".len());
    let told: Vec<&str> = errors.map(|l| l.trim_start_matches("Error:").trim()).take(3).collect();
    if told.is_empty() { one_line(full) } else { told.join("; ") }
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(300).collect()
}
