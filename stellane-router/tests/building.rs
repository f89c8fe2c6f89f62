//! What building a table costs, and what it then takes of memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use stellane_router::RouteTable;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn add(bytes: isize) {
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is left to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sets of `n` templates of many shapes; none has anything wrong.
fn shapes(n: usize) -> Vec<(&'static str, Vec<String>)> {
    let each = |name, template: &dyn Fn(usize) -> String| (name, (0..n).map(template).collect());
    let ladder = |i: usize| -> String {
        let rung = |b: usize| match i >> b & 1 {
            1 => format!("/x{b}"),
            _ => format!("/{{p{b}}}"),
        };
        (0..n.ilog2() as usize).map(rung).collect()
    };
    vec![
        each("literals", &|i| format!("/a/b{i}/c")),
        each("suffixes", &|i| format!("/f/{{name}}.e{i:04}/{{v}}")),
        each("verbs", &|i| format!("/v1/{{name}}:verb{i}")),
        each("one", &|i| format!("/{{a:one(x{i}|y{i})}}/{{b}}")),
        each("one before text", &|i| {
            format!("/{{a:one(x{i}|y{i})}}.json")
        }),
        each("one between", &|i| format!("/{{a:one(x{i}|y{i})}}-{{b}}")),
        each("lengths", &|i| {
            format!("/{{a:len({})}}/r{i}", ["1..4", "5..9"][i % 2])
        }),
        each("ladder", &ladder),
        each("seven", &|i| {
            format!("/r{i}/{{a}}/{{b}}/{{c}}/{{d}}/{{e}}/{{f}}/{{g}}")
        }),
        each("seven shared", &|i| {
            format!("/{{a}}/{{b}}/{{c}}/{{d}}/{{e}}/{{f}}/{{g}}/r{i}")
        }),
        each("rivals", &|i| {
            format!("/{{a}}{}{{b}}/r{i}", ["-", "_"][i % 2])
        }),
        each("rivals and texts", &|i| {
            format!("/{{a}}{}{{b}}/{{c}}.s{i:04}", ["-", "_"][i % 2])
        }),
        each("several segments", &|i| {
            format!("/{{*ns}}/-/{{id}}/r{i}/{{*rest}}")
        }),
    ]
}

/// Not of time, which no test asserts: but what compares all pairs allocates for pairs here.
#[test]
fn building_allocates_in_proportion_to_the_templates() {
    let count = |templates: &[String]| {
        let before = COUNT.get();
        let table = RouteTable::new(templates).unwrap();
        let count = COUNT.get() - before;
        assert_eq!(table.len(), templates.len());
        count
    };
    for ((name, few), (_, many)) in shapes(256).iter().zip(&shapes(1024)) {
        let (few, many) = (count(few), count(many));
        assert!(many < 5 * few, "{name}: {few} for 256, {many} for 1024");
        assert!(many < 200 * 1024, "{name}: {many}");
    }
}

#[test]
fn bytes_are_those_that_are_live() {
    for (name, templates) in shapes(512) {
        let before = LIVE.get();
        let table = RouteTable::new(&templates).unwrap();
        let live = (LIVE.get() - before) as f64;
        let told = table.bytes() as f64;
        assert!(
            (0.95..1.05).contains(&(told / live)),
            "{name}: {told} of {live}"
        );
    }
}
