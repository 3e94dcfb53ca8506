//! The shape of a shared library, read from its bytes: is it one for this machine, is it whole, what does it export.
//!
//! Mirrors the kernel's `elf_validity_check` for modules. The dynamic loader trusts a file's headers, so what would
//! make it crash (segments beyond the end) or do harm (a `malloc` of the plugin's own) is refused here, before it sees
//! the file. Everything is bounded by the bytes; nothing is executed.
//!
//! Not here: what the metadata note says ([`super::note`]).

use object::elf::{self, FileHeader64, Machine, ProgramHeader64, SectionHeader64, Sym64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{Endianness, StringTable};

/// The exported symbol through which the loader finds a plugin's root module.
pub(super) const ENTRY_SYMBOL: &str = "_1as_0lib_1header_0root_bmodule_bloader";

/// Names that a plugin must not define: the dynamic loader could bind others to them.
const FOREIGN: &str = "\
    malloc calloc realloc free aligned_alloc posix_memalign memalign malloc_usable_size \
    memcpy memmove memset memcmp strlen open open64 openat read write close socket ioctl mmap munmap \
    fork execve exit _exit abort setns unshare dlopen dlsym dlclose \
    pthread_create pthread_mutex_lock __cxa_thread_atexit_impl _Unwind_RaiseException";

/// More than these are a damaged number, and would cost the reader memory.
const MOST_NOTES: usize = 1000;
const MOST_SYMBOLS: usize = 1_000_000;

/// Why a file cannot be a plugin for this machine, by its shape alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No ELF magic.
    #[error("it is no ELF file: name a shared library built with crate-type \"cdylib\"")]
    NotElf,
    /// Another word size, byte order or processor.
    #[error("it is built for {found}, this machine needs {}: rebuild it for this machine", this_machine())]
    OtherMachine {
        /// What the file is for.
        found: String,
    },
    /// An executable, an object file, a core.
    #[error("it is an ELF file but no shared library (ELF type {0}): build it with crate-type \"cdylib\"")]
    NotShared(u16),
    /// The headers promise more bytes than there are.
    #[error("it is truncated: its {what} end at byte {end}, the file has {len}: copy it again")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where the part ends.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// Headers that contradict themselves.
    #[error("its ELF headers are damaged ({0}): copy or build it again")]
    Damaged(String),
    /// The loader would find nothing to call.
    #[error("it exports no plugin entry: use export_plugin! once in its crate, and do not strip its dynamic symbols")]
    NoEntry,
    /// A symbol of the C library or the runtime, defined by the plugin.
    #[error("it defines the symbol `{0}` of the C library: build it without that (a static libc or allocator?)")]
    Foreign(String),
}

/// A parsed file: the two tables that say what it is.
pub(super) struct Shape<'a> {
    data: &'a [u8],
    endian: Endianness,
    segments: &'a [ProgramHeader64<Endianness>],
    sections: &'a [SectionHeader64<Endianness>],
}

/// One ELF note.
pub(super) struct RawNote<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: u32,
    pub(super) descriptor: &'a [u8],
}

impl<'a> Shape<'a> {
    /// Checks that the bytes are a whole shared library for this machine.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, FormatError> {
        check_identity(data)?;
        let truncated = |what, end| FormatError::Truncated { what, end, len: data.len() as u64 };
        let header = FileHeader64::<Endianness>::parse(data)
            .map_err(|_| truncated("headers", size_of::<FileHeader64<Endianness>>() as u64))?;
        let endian = header.endian().map_err(damaged)?;
        check_machine(header, endian)?;
        let table = |offset: u64, each: u16, count: u16| offset.saturating_add(u64::from(each) * u64::from(count));
        let programs_end = table(header.e_phoff(endian), header.e_phentsize(endian), header.e_phnum(endian));
        let sections_end = table(header.e_shoff(endian), header.e_shentsize(endian), header.e_shnum(endian));
        for (what, end) in [("program headers", programs_end), ("section headers", sections_end)] {
            if end > data.len() as u64 {
                return Err(truncated(what, end));
            }
        }
        let segments = header.program_headers(endian, data).map_err(damaged)?;
        let sections = header.section_headers(endian, data).map_err(damaged)?;
        for segment in segments {
            let end = segment.p_offset(endian).saturating_add(segment.p_filesz(endian));
            if end > data.len() as u64 {
                return Err(truncated("segments", end));
            }
        }
        let shape = Shape { data, endian, segments, sections };
        shape.check_segments()?;
        Ok(shape)
    }

    /// What the dynamic loader takes for granted of the loadable segments.
    fn check_segments(&self) -> Result<(), FormatError> {
        let loads = || self.segments.iter().filter(|s| s.p_type(self.endian) == elf::PT_LOAD);
        if loads().next().is_none() {
            return Err(FormatError::Damaged("nothing to load".into()));
        }
        let mut last_end = 0;
        for load in loads() {
            let (start, size) = (load.p_vaddr(self.endian), load.p_memsz(self.endian));
            if load.p_filesz(self.endian) > size {
                return Err(FormatError::Damaged("a segment larger in the file than in memory".into()));
            }
            // A mapping of a plugin of more than 16 GiB is a damaged number, not a plugin.
            if start < last_end || size > 1 << 34 || start > 1 << 34 {
                return Err(FormatError::Damaged("segments out of order or range".into()));
            }
            last_end = start + size;
        }
        let dynamic = self.segments.iter().find(|s| s.p_type(self.endian) == elf::PT_DYNAMIC);
        let Some(dynamic) = dynamic else { return Err(FormatError::Damaged("no dynamic segment".into())) };
        let (start, end) = dynamic.file_range(self.endian);
        let inside = loads().any(|l| {
            let (from, to) = l.file_range(self.endian);
            from <= start && start.saturating_add(end) <= from.saturating_add(to)
        });
        if inside { Ok(()) } else { Err(FormatError::Damaged("the dynamic segment is not loaded".into())) }
    }

    /// Every note of the file, by its program headers: they are there in a stripped file too.
    pub(super) fn notes(&self) -> Result<Vec<RawNote<'a>>, FormatError> {
        let mut all = Vec::new();
        for segment in self.segments {
            let Some(mut notes) = segment.notes(self.endian, self.data).map_err(damaged)? else { continue };
            while let Some(note) = notes.next().map_err(damaged)? {
                let kind = note.n_type(self.endian).0;
                if all.len() == MOST_NOTES {
                    return Err(FormatError::Damaged(format!("more than {MOST_NOTES} notes")));
                }
                all.push(RawNote { name: note.name(), kind, descriptor: note.desc() });
            }
        }
        Ok(all)
    }

    /// That the file exports the plugin's entry, and nothing that others could be bound to by mistake.
    pub(super) fn check_exports(&self) -> Result<(), FormatError> {
        let mut entry = false;
        for name in self.exports()? {
            let name = String::from_utf8_lossy(name);
            if FOREIGN.split(' ').any(|foreign| foreign == name) {
                return Err(FormatError::Foreign(name.into_owned()));
            }
            entry |= name == ENTRY_SYMBOL;
        }
        if entry { Ok(()) } else { Err(FormatError::NoEntry) }
    }

    fn exports(&self) -> Result<Vec<&'a [u8]>, FormatError> {
        let table = self.sections.iter().find(|s| s.sh_type(self.endian) == elf::SHT_DYNSYM);
        let Some(table) = table else { return Err(FormatError::NoEntry) };
        let symbols: &[Sym64<Endianness>] = table.data_as_array(self.endian, self.data).map_err(damaged)?;
        if symbols.len() > MOST_SYMBOLS {
            return Err(FormatError::Damaged(format!("more than {MOST_SYMBOLS} dynamic symbols")));
        }
        let link = self.sections.get(table.sh_link(self.endian) as usize);
        let strings = link.and_then(|s| s.data(self.endian, self.data).ok());
        let Some(strings) = strings else { return Err(FormatError::Damaged("no names of symbols".into())) };
        let strings = StringTable::new(strings, 0, strings.len() as u64);
        let defined = symbols.iter().filter(|s| !s.is_undefined(self.endian) && s.st_name(self.endian) != 0);
        defined.map(|s| s.name(self.endian, strings).map_err(damaged)).collect()
    }
}

fn damaged(e: object::read::Error) -> FormatError {
    FormatError::Damaged(e.to_string())
}

/// Magic, class and byte order: what decides how the rest is read.
fn check_identity(data: &[u8]) -> Result<(), FormatError> {
    if !data.starts_with(&elf::ELFMAG) {
        return Err(FormatError::NotElf);
    }
    let [class, order] = [4, 5].map(|at| data.get(at).copied().unwrap_or(0));
    let native_order = if cfg!(target_endian = "little") { 1 } else { 2 };
    if class == 2 && order == native_order {
        return Ok(());
    }
    let bits = if class == 1 {
        "32-bit"
    } else if class == 2 {
        "64-bit"
    } else {
        "unknown-size"
    };
    let order = if order == 1 {
        "little-endian"
    } else if order == 2 {
        "big-endian"
    } else {
        "unknown-order"
    };
    Err(FormatError::OtherMachine { found: format!("a {bits} {order} machine") })
}

fn check_machine(header: &FileHeader64<Endianness>, endian: Endianness) -> Result<(), FormatError> {
    let found = header.e_machine(endian);
    if MACHINE.is_some_and(|expected| expected != found) {
        return Err(FormatError::OtherMachine { found: format!("another processor (ELF machine {})", found.0) });
    }
    let kind = header.e_type(endian);
    if kind == elf::ET_DYN { Ok(()) } else { Err(FormatError::NotShared(kind.0)) }
}

/// This processor's number in ELF; where it is not listed, the note's target alone decides.
const MACHINE: Option<Machine> = if cfg!(target_arch = "x86_64") {
    Some(elf::EM_X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(elf::EM_AARCH64)
} else if cfg!(target_arch = "riscv64") {
    Some(elf::EM_RISCV)
} else {
    None
};

fn this_machine() -> &'static str {
    std::env::consts::ARCH
}

/// The build id that the linker gave the file, in hexadecimal.
pub(super) fn build_id(notes: &[RawNote<'_>]) -> Option<String> {
    let note = notes.iter().find(|n| n.name == b"GNU" && n.kind == elf::NT_GNU_BUILD_ID.0)?;
    Some(note.descriptor.iter().take(64).map(|b| format!("{b:02x}")).collect())
}
