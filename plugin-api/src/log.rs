//! Logs: an author uses `tracing` as usual, and this plugin's copy of it forwards each line to the host.
//!
//! A line is attributed by the instance's token: inside a hook the token is in a thread-local; a thread that the plugin
//! started itself logs as the newest live instance of this mapping, or as the one in whose
//! [`attribute`](crate::Host::attribute) it is. The host adds plugin, namespace and generation. Spans are kept here, and
//! their fields join those of the events inside them. Filtering beyond the level is the host's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::span::Current;

use crate::abi::{HostModRef, LogRecord};

/// An instance as the host knows it.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) token: u64,
    pub(crate) host: HostModRef,
}

/// Where a thread is.
#[derive(Clone, Copy)]
enum Place {
    /// In code that the plugin runs by itself.
    Outside,
    /// In a call from the host, of an instance if there is one yet.
    Inside(Option<Caller>),
}

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Outside) };
    /// The spans entered on this thread, innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The live instances of this mapping, newest last.
static LIVE: Mutex<Vec<Caller>> = Mutex::new(Vec::new());

/// Nothing of an author runs under the locks of this file, so a poisoned one is sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes an instance up among the live ones.
pub(crate) fn born(caller: Caller) {
    lock(&LIVE).push(caller);
}

/// Takes it out again.
pub(crate) fn gone(caller: Caller) {
    lock(&LIVE).retain(|live| live.token != caller.token);
}

/// Marks this thread as being inside a call, until the guard is dropped.
pub(crate) fn enter(caller: impl Into<Option<Caller>>) -> Inside {
    Inside(PLACE.replace(Place::Inside(caller.into())), PhantomData)
}

/// See [`enter`]. It belongs to its thread.
pub(crate) struct Inside(Place, PhantomData<*const ()>);

impl Drop for Inside {
    fn drop(&mut self) {
        PLACE.set(self.0);
    }
}

fn place() -> Place {
    // A thread that is ending may log from a destructor, when its own place is gone.
    PLACE.try_with(Cell::get).unwrap_or(Place::Outside)
}

pub(crate) fn is_inside() -> bool {
    matches!(place(), Place::Inside(_))
}

/// Whose logs this thread's are.
fn author() -> Option<Caller> {
    match place() {
        Place::Inside(caller) => caller,
        Place::Outside => lock(&LIVE).last().copied(),
    }
}

/// Logs a panic; false if there is nobody to log as, so that it should be told some other way. A configuration is
/// judged without an instance: its panic is in the answer.
pub(crate) fn panicked(what: &str, at: &str) -> bool {
    let Some(caller) = author() else { return is_inside() };
    let fields = Map::from_iter([("location".to_owned(), Value::from(at))]);
    send(caller, Level::ERROR, "panic", &format!("panicked: {what}"), &fields);
    true
}

fn send(caller: Caller, level: Level, target: &str, message: &str, fields: &Map<String, Value>) {
    let fields = if fields.is_empty() { String::new() } else { serde_json::to_string(fields).unwrap_or_default() };
    let record = LogRecord {
        level: number(level),
        target: target.into(),
        message: message.into(),
        fields: fields.as_str().into(),
    };
    (caller.host.log())(caller.token, &record);
}

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Makes [`Forward`] the subscriber of this copy of `tracing`, which works once per mapping. An author who came first
/// with one of his own keeps it.
pub(crate) fn install() {
    let _ = tracing::subscriber::set_global_default(Forward);
}

/// The subscriber that forwards to the host.
struct Forward;

impl Subscriber for Forward {
    /// Never "always": the host's level may change at any time.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        author().is_some_and(|caller| number(*metadata.level()) <= (caller.host.log_level())())
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        span.record(&mut fields);
        let parent = if span.is_contextual() { innermost() } else { span.parent().map(Id::into_u64) };
        Id::from_u64(lock(&SPANS).open(span.metadata(), parent, fields.map))
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(open) = lock(&SPANS).open.get_mut(&span.into_u64()) {
            open.fields.extend(fields.map);
        }
    }

    /// Causality without containment: nothing that a line of a log would show.
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(caller) = author() else { return };
        let mut own = Fields::default();
        event.record(&mut own);
        let around = if event.is_contextual() { innermost() } else { event.parent().map(Id::into_u64) };
        let mut fields = lock(&SPANS).fields(around);
        fields.extend(own.map);
        let metadata = event.metadata();
        send(caller, *metadata.level(), metadata.target(), &own.message, &fields);
    }

    fn enter(&self, span: &Id) {
        let _ = ENTERED.try_with(|entered| entered.borrow_mut().push(span.into_u64()));
    }

    fn exit(&self, span: &Id) {
        let _ = ENTERED.try_with(|entered| {
            let mut entered = entered.borrow_mut();
            // Guards need not be dropped in the order of their entering.
            if let Some(at) = entered.iter().rposition(|id| *id == span.into_u64()) {
                entered.remove(at);
            }
        });
    }

    fn clone_span(&self, span: &Id) -> Id {
        if let Some(open) = lock(&SPANS).open.get_mut(&span.into_u64()) {
            open.holders += 1;
        }
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        lock(&SPANS).release(span.into_u64())
    }

    fn current_span(&self) -> Current {
        let Some(id) = innermost() else { return Current::none() };
        match lock(&SPANS).open.get(&id) {
            Some(open) => Current::new(Id::from_u64(id), open.metadata),
            None => Current::none(),
        }
    }
}

/// The innermost span that this thread is in.
fn innermost() -> Option<u64> {
    ENTERED.try_with(|entered| entered.borrow().last().copied()).ok().flatten()
}

/// The open spans of this mapping.
static SPANS: Mutex<Spans> = Mutex::new(Spans { next: 1, open: BTreeMap::new() });

struct Spans {
    next: u64,
    open: BTreeMap<u64, Span>,
}

struct Span {
    metadata: &'static Metadata<'static>,
    /// Held by this span, so that it outlives it.
    parent: Option<u64>,
    fields: Map<String, Value>,
    holders: usize,
}

impl Spans {
    fn open(&mut self, metadata: &'static Metadata<'static>, parent: Option<u64>, fields: Map<String, Value>) -> u64 {
        let id = self.next;
        self.next += 1;
        if let Some(parent) = parent.and_then(|p| self.open.get_mut(&p)) {
            parent.holders += 1;
        }
        self.open.insert(id, Span { metadata, parent, fields, holders: 1 });
        id
    }

    /// Lets go of a span; true if that closed it.
    fn release(&mut self, id: u64) -> bool {
        let mut next = Some(id);
        while let Some(id) = next {
            let Some(span) = self.open.get_mut(&id) else { break };
            span.holders -= 1;
            if span.holders > 0 {
                break;
            }
            next = self.open.remove(&id).and_then(|closed| closed.parent);
        }
        !self.open.contains_key(&id)
    }

    /// The fields of a span and of those around it. The inner one's count where names are the same.
    fn fields(&self, innermost: Option<u64>) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut next = innermost;
        while let Some(span) = next.and_then(|id| self.open.get(&id)) {
            for (name, value) in &span.fields {
                fields.entry(name.as_str()).or_insert_with(|| value.clone());
            }
            next = span.parent;
        }
        fields
    }
}

/// Collects fields as JSON, the message apart.
#[derive(Default)]
struct Fields {
    message: String,
    map: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.map.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.put(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.put(field, value.into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    /// JSON has no NaN and no infinity: those stay text.
    fn record_f64(&mut self, field: &Field, value: f64) {
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.put(field, number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}
