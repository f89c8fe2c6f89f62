//! What a user of `Interner` sees.
//!
//! Under Miri, which also runs `--test router`; the frozen vocabulary is never freed, by design:
//! `MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks" cargo +nightly miri test -p stellane-router --test interner`

use stellane_router::{Atom, Interner, InternerConfig};

#[test]
fn equal_strings_become_one() {
    let interner = Interner::builder()
        .vocabulary(["frozen"])
        .admit_after(1)
        .build()
        .unwrap();
    let (a, b) = (interner.intern("word"), interner.intern("word"));
    assert_eq!((&a, a.as_ptr()), (&b, b.as_ptr()));
    assert_eq!(interner.intern("frozen").as_static(), Some("frozen"));
    assert_eq!(interner.lookup("word"), Some(a));
    assert_eq!(size_of::<Atom>(), 16);
}

#[test]
fn lookup_never_remembers() {
    let interner = Interner::builder().admit_after(1).build().unwrap();
    for _ in 0..3 {
        assert_eq!(interner.lookup("word"), None);
    }
    assert_eq!(interner.stats().entries, 0);
}

#[test]
fn what_comes_once_is_never_stored() {
    let interner = Interner::builder().build().unwrap();
    assert_eq!(interner.intern("word"), "word");
    assert_eq!(
        (interner.stats().entries, interner.stats().bypassed),
        (0, 1)
    );
    assert_eq!(interner.intern("word"), "word");
    assert_eq!(
        (interner.stats().entries, interner.stats().inserted),
        (1, 1)
    );
}

#[test]
fn long_strings_are_returned_and_not_remembered() {
    let interner = Interner::builder()
        .admit_after(1)
        .max_len(8)
        .build()
        .unwrap();
    assert_eq!(interner.intern("123456789"), "123456789");
    assert_eq!(
        (interner.stats().entries, interner.stats().bypassed),
        (0, 1)
    );
}

#[test]
fn the_bound_holds_and_can_be_moved() {
    // Miri takes a second for a few words.
    let (words, max_bytes) = if cfg!(miri) {
        (150_u64, 1 << 13)
    } else {
        (10_000, 1 << 16)
    };
    let interner = Interner::builder()
        .admit_after(1)
        .max_bytes(max_bytes)
        .build()
        .unwrap();
    for i in 0..words {
        assert_eq!(
            interner.intern(&format!("word-{i}")),
            format!("word-{i}").as_str()
        );
        assert!(interner.stats().bytes <= max_bytes);
    }
    assert!(interner.stats().entries < words);
    interner.set_max_bytes(max_bytes / 4);
    assert!(interner.stats().bytes <= max_bytes / 4);
    interner.set_max_bytes(0);
    assert_eq!(interner.intern("off"), "off");
    assert_eq!((interner.stats().entries, interner.stats().bytes), (0, 0));
}

#[test]
fn atoms_outlive_eviction_and_threads() {
    let interner = Interner::builder()
        .admit_after(1)
        .max_bytes(1 << 13)
        .build()
        .unwrap();
    let kept: Vec<Atom> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|t| {
                let interner = interner.clone();
                let words = move || {
                    (0..40)
                        .map(|i| interner.intern(&format!("w{}", i * t)))
                        .collect()
                };
                scope.spawn::<_, Vec<Atom>>(words)
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    });
    drop(interner);
    let copy = kept.clone();
    drop(kept);
    assert!(copy.iter().all(|atom| atom.starts_with('w')));
}

#[test]
fn bad_limits_are_all_named() {
    let mut config = InternerConfig::default();
    (config.max_bytes, config.max_len, config.admit_after) = (1, 0, 3);
    let errors = Interner::builder().config(config).build().unwrap_err();
    assert_eq!(
        errors.iter().map(|e| e.key).collect::<Vec<_>>(),
        ["max_bytes", "max_len", "admit_after"]
    );
    assert_eq!(
        errors[0].to_string(),
        "`max_bytes` = 1: expected 0, or 4096 to 1 TiB"
    );
}

#[cfg(feature = "metrics")]
#[test]
fn an_atom_becomes_a_metrics_string() {
    let interner = Interner::builder().vocabulary(["frozen"]).build().unwrap();
    for word in ["frozen", "shared"] {
        assert_eq!(
            metrics::SharedString::from(interner.intern(word)),
            word.into()
        );
    }
}

#[cfg(feature = "router")]
#[test]
fn intern_layer_interns_what_the_template_declares() {
    use stellane_router::{InternLayer, InternedRoute, RouteTable};
    use tower::{Layer, Service};

    let table = RouteTable::new(["/{region:atom}/users/{id}"]).unwrap();
    let interner = Interner::builder().table(&table).build().unwrap();
    let seen = std::cell::RefCell::new(Vec::new());
    let inner = tower::service_fn(|request: http::Request<()>| {
        seen.borrow_mut()
            .push(request.extensions().get::<InternedRoute>().cloned());
        std::future::ready(Ok::<_, ()>(()))
    });
    let mut service = InternLayer::new(&interner).routes(table).layer(inner);
    for uri in [
        "/eu%20west/users/1",
        "/eu%20west/users/2",
        "/eu%20west/users/3",
        "/none",
    ] {
        drop(service.call(http::Request::get(uri).body(()).unwrap()));
    }
    let seen = seen.into_inner();
    let route = seen[1].as_ref().unwrap();
    assert_eq!(
        route.template().as_static(),
        Some("/{region:atom}/users/{id}")
    );
    assert_eq!(route.get("region").unwrap(), &"eu west");
    assert_eq!(route.get("id"), None, "not declared an atom");
    assert_eq!(
        route.get("region").unwrap().as_ptr(),
        seen[2].as_ref().unwrap().get("region").unwrap().as_ptr()
    );
    assert!(seen[3].is_none());
    assert_eq!(interner.stats().entries, 1);
}

#[test]
fn a_word_that_threads_ask_for_again_and_again_is_the_same_for_all_and_forgotten_with_the_tier() {
    let interner = Interner::builder().admit_after(1).build().unwrap();
    let ask = || {
        let first = interner.intern("hot");
        for _ in 0..100 {
            assert_eq!(interner.intern("hot"), first);
        }
        (interner.intern("hot"), interner.lookup("hot").unwrap())
    };
    let (here, looked_up) = ask();
    let (there, _) = std::thread::scope(|scope| scope.spawn(ask).join().unwrap());
    assert_eq!((&here, &*here), (&there, "hot"));
    assert_eq!(here.as_ptr(), looked_up.as_ptr());
    assert_eq!(interner.stats().inserted, 1);
    // Another interner knows nothing of it.
    let other = Interner::builder().admit_after(1).build().unwrap();
    assert_eq!(other.lookup("hot"), None);
    interner.set_max_bytes(0);
    assert_eq!(interner.lookup("hot"), None);
}
