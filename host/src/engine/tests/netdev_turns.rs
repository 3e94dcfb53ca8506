//! What may happen to plugins' own devices, at random: what their plugin does, what other programs do, what fails, and
//! what becomes of the messages. Devices are named by slots, which may be empty.

use proptest::prelude::*;

pub(super) const SLOTS: usize = 5;
pub(super) const NETS: u64 = 3;
/// A namespace that nobody manages.
pub(super) const ELSEWHERE: u64 = 9;
/// Names, which may be alternative ones too, and patterns.
pub(super) const NAMES: [&str; 5] = ["d0", "d1", "d2", "d%d", "e%d"];
/// Those that are no patterns.
const LITERALS: usize = 3;
pub(super) const KINDS: [&str; 3] = ["tap", "ifb", "bridge"];

#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Slot, namespace, name, kind.
    Register(usize, u64, usize, usize),
    Pair(usize, usize, u64, u64),
    Unregister(usize),
    Own(usize, Change),
    /// Slot, namespace, pattern, index.
    Move(usize, u64, Option<usize>, u32),
    /// Another program's.
    Other(usize, Change),
    Deletes(usize),
    Moves(usize, u64),
    Adds(u64, usize),
    Removes(u64),
    /// The n-th call of what comes next fails; or, of a listener, is a veto.
    Fail(usize, bool),
    Deliver(usize),
    Settle,
    Lose,
    RemovePlugin,
    Die(u64),
}

/// A change of a device, by its plugin or by another program.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Up,
    Down,
    Name(usize),
    Mtu(u32),
    /// The last byte.
    Address(u8),
    /// Under the device in this slot; out.
    Master(Option<usize>),
    AddAlt(usize),
    DelAlt(usize),
}

fn slot() -> std::ops::Range<usize> {
    0..SLOTS
}

fn net() -> std::ops::RangeInclusive<u64> {
    1..=NETS
}

fn mtu() -> impl Strategy<Value = u32> {
    prop_oneof![Just(60u32), Just(1300), Just(1400), Just(1500), Just(70000)]
}

/// Any; or only what another program can want, which names what it wants.
fn change(names: usize) -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => Just(Change::Up),
        3 => Just(Change::Down),
        3 => (0..names).prop_map(Change::Name),
        3 => mtu().prop_map(Change::Mtu),
        2 => (1..4u8).prop_map(Change::Address),
        3 => prop::option::weighted(0.7, slot()).prop_map(Change::Master),
        2 => (0..LITERALS).prop_map(Change::AddAlt),
        1 => (0..LITERALS).prop_map(Change::DelAlt),
    ]
}

fn own() -> impl Strategy<Value = Action> {
    (slot(), change(NAMES.len())).prop_map(|(slot, change)| Action::Own(slot, change))
}

fn other() -> impl Strategy<Value = Action> {
    (slot(), change(LITERALS)).prop_map(|(slot, change)| Action::Other(slot, change))
}

fn registers() -> impl Strategy<Value = Action> {
    (slot(), net(), 0..NAMES.len(), 0..KINDS.len()).prop_map(|(s, n, name, kind)| Action::Register(s, n, name, kind))
}

fn moves() -> impl Strategy<Value = Action> {
    let index = prop_oneof![3 => Just(0u32), 1 => 1..9u32];
    let pattern = prop::option::of(0..NAMES.len());
    (slot(), net(), pattern, index).prop_map(|(s, n, pattern, index)| Action::Move(s, n, pattern, index))
}

fn fails() -> impl Strategy<Value = Action> {
    (1..16usize, any::<bool>()).prop_map(|(n, veto)| Action::Fail(n, veto))
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => registers(),
        3 => (slot(), slot(), net(), net()).prop_map(|(a, b, n, m)| Action::Pair(a, b, n, m)),
        3 => slot().prop_map(Action::Unregister),
        12 => own(),
        5 => moves(),
        8 => other(),
        2 => slot().prop_map(Action::Deletes),
        2 => (slot(), prop_oneof![net(), Just(ELSEWHERE)]).prop_map(|(s, n)| Action::Moves(s, n)),
        2 => (net(), 0..LITERALS).prop_map(|(n, name)| Action::Adds(n, name)),
        1 => net().prop_map(Action::Removes),
        4 => fails(),
        4 => (1..4usize).prop_map(Action::Deliver),
        8 => Just(Action::Settle),
        2 => Just(Action::Lose),
        1 => Just(Action::RemovePlugin),
        1 => net().prop_map(Action::Die),
    ]
}

/// What another program did to a device unread, and then a change of it by its plugin of which a call fails: rare by itself.
fn unread_then_failing() -> impl Strategy<Value = Vec<Action>> {
    let turns = (slot(), change(LITERALS), fails(), change(NAMES.len()));
    turns.prop_map(|(slot, before, fails, after)| {
        vec![Action::Settle, Action::Other(slot, before), fails, Action::Own(slot, after), Action::Settle]
    })
}

/// Two things that another program did to a device, of which the first is not taken well.
fn seen_failing() -> impl Strategy<Value = Vec<Action>> {
    let turns = (slot(), prop_oneof![Just(Change::Up), change(LITERALS)], change(LITERALS), fails());
    turns.prop_map(|(slot, first, second, fails)| {
        vec![Action::Settle, Action::Other(slot, first), Action::Other(slot, second), fails, Action::Settle]
    })
}

/// A whole sequence.
pub(super) fn turns() -> impl Strategy<Value = Vec<Action>> {
    let some = prop_oneof![
        8 => action().prop_map(|action| vec![action]),
        1 => unread_then_failing(),
        1 => seen_failing(),
    ];
    prop::collection::vec(some, 1..45).prop_map(|turns| turns.concat())
}
