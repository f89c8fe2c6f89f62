use std::collections::VecDeque;

use crate::{Budget, DropReason, Recycle};

/// The room for so many values is kept, however few there are.
const STACK: usize = 32;

/// How many of the oldest lent values a take looks at before it gives up.
const LOOKS: usize = 4;

/// From this size on, what a take leaves behind is large: no more than so much of it stays in reserve, and no more than
/// such a part of the budget. A pool whose values come and go one at a time leaves the shared counter alone all the same.
const LARGE: usize = 32 << 10;
const MOST_RESERVED: usize = 256 << 10;
const PART_RESERVED: usize = 64;

/// A stack of idle values with its share of the budget. The exchange is one too.
pub(super) struct Magazine<T> {
    /// Ready values, the most recently used on top.
    idle: Vec<Box<Slot<T>>>,
    /// Returned values whose memory was still lent out, the oldest in front.
    lent: VecDeque<Box<Slot<T>>>,
    /// The fewest ready values since the last tick: those below were not touched since.
    low: usize,
    /// The bytes of all slots.
    held: usize,
    /// What is charged to the budget, at least `held`. It follows `held` up, and down only at ticks and where the
    /// difference gets large, so that steady traffic leaves the shared counter alone.
    charged: usize,
    pub(super) hits: u64,
    pub(super) returns: u64,
}

/// A value and what the pool knows of it, in a box of its own: however large the value, what moves between
/// magazines is a pointer. On cache lines of its own as well, since each take and each return writes to it.
#[repr(align(128))]
pub(super) struct Slot<T> {
    pub(super) value: T,
    /// What is charged for it while it is idle.
    pub(super) bytes: usize,
    /// Ticks seen while lent.
    age: u8,
}

impl<T> Slot<T> {
    pub(super) fn new(value: T) -> Box<Self> {
        Box::new(Self {
            value,
            bytes: 0,
            age: 0,
        })
    }
}

impl<T: Recycle> Magazine<T> {
    pub(super) fn new() -> Self {
        Self {
            idle: Vec::new(),
            lent: VecDeque::new(),
            low: 0,
            held: 0,
            charged: 0,
            hits: 0,
            returns: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.idle.len() + self.lent.len()
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes a value that is free, the warmest first.
    #[inline]
    pub(super) fn pop(&mut self, budget: &Budget) -> Option<Box<Slot<T>>> {
        let slot = match self.idle.pop() {
            Some(slot) => slot,
            None => self.pop_lent()?,
        };
        self.low = self.low.min(self.idle.len());
        self.held -= slot.bytes;
        if slot.bytes >= LARGE {
            self.reserve(MOST_RESERVED.min(budget.limit() / PART_RESERVED), budget);
        }
        Some(slot)
    }

    #[cold]
    fn pop_lent(&mut self) -> Option<Box<Slot<T>>> {
        self.low = 0;
        for _ in 0..self.lent.len().min(LOOKS) {
            let mut slot = self.lent.pop_front()?;
            if slot.value.is_free() {
                return Some(slot);
            }
            self.lent.push_back(slot);
        }
        None
    }

    /// Keeps `slot`, or gives it back and says why not.
    #[inline]
    pub(super) fn push(
        &mut self,
        slot: Box<Slot<T>>,
        lent: bool,
        budget: &Budget,
    ) -> Result<(), Refused<T>> {
        let held = self.held + slot.bytes;
        if held > self.charged {
            if !budget.try_charge(held - self.charged) {
                return Err((slot, DropReason::Budget));
            }
            self.charged = held;
        }
        self.held = held;
        if lent {
            self.lent.push_back(slot);
        } else {
            if self.idle.capacity() == 0 {
                // So much that no other thread's is on the line of the first, whatever the allocator does.
                self.idle.reserve(STACK);
            }
            self.idle.push(slot);
        }
        Ok(())
    }

    /// Moves up to `count` values with their share of the budget, ready ones if there are any.
    pub(super) fn move_to(&mut self, other: &mut Self, count: usize, budget: &Budget) {
        let bytes = if self.idle.is_empty() {
            let count = count.min(self.lent.len());
            move_all(self.lent.drain(..count), &mut other.lent)
        } else {
            let keep = self.idle.len().saturating_sub(count);
            self.low = self.low.min(keep);
            move_all(self.idle.drain(keep..), &mut other.idle)
        };
        self.held -= bytes;
        self.charged -= bytes;
        other.held += bytes;
        // What the other has in reserve pays first, or a one-way flow would pile up reserves.
        let due = other.held.saturating_sub(other.charged);
        other.charged += due;
        budget.release(bytes - due);
    }

    /// Ages the magazine and returns what leaves, with what leaves because it is still lent.
    pub(super) fn tick(&mut self, retain_percent: usize, budget: &Budget, out: &mut Leaving<T>) {
        for _ in 0..self.lent.len() {
            let Some(mut slot) = self.lent.pop_front() else {
                break;
            };
            if slot.value.is_free() {
                slot.age = 0;
                self.idle.push(slot);
            } else if slot.age > 0 {
                self.held -= slot.bytes;
                out.lent.push(slot);
            } else {
                slot.age += 1;
                self.lent.push_back(slot);
            }
        }
        let used = self.idle.len() - self.low;
        let keep = used.saturating_mul(retain_percent).div_ceil(100);
        self.drop_oldest(self.idle.len().saturating_sub(keep), out);
        self.low = self.idle.len();
        self.settle(budget);
        self.idle.shrink_to(self.idle.len().max(STACK));
        self.lent.shrink_to(self.lent.len().max(STACK));
    }

    /// Drops oldest ready values, then the handles of lent ones, until `bytes` are freed.
    pub(super) fn trim(&mut self, bytes: usize, budget: &Budget, out: &mut Leaving<T>) -> usize {
        let (before, mut freed) = (self.charged, self.charged - self.held);
        let mut count = 0;
        for slot in &self.idle {
            if freed >= bytes {
                break;
            }
            freed += slot.bytes;
            count += 1;
        }
        self.drop_oldest(count, out);
        while freed < bytes {
            let Some(slot) = self.lent.pop_front() else {
                break;
            };
            self.held -= slot.bytes;
            freed += slot.bytes;
            out.aged.push(slot);
        }
        self.settle(budget);
        before - self.charged
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, budget: &Budget, out: &mut Leaving<T>) {
        out.aged.append(&mut self.idle);
        out.aged.extend(self.lent.drain(..));
        (self.low, self.held) = (0, 0);
        self.settle(budget);
    }

    /// Drops oldest values beyond `max`.
    pub(super) fn truncate(&mut self, max: usize, budget: &Budget, out: &mut Leaving<T>) {
        self.drop_oldest(self.idle.len().saturating_sub(max), out);
        while self.len() > max {
            let Some(slot) = self.lent.pop_front() else {
                break;
            };
            self.held -= slot.bytes;
            out.aged.push(slot);
        }
        self.settle(budget);
    }

    fn drop_oldest(&mut self, count: usize, out: &mut Leaving<T>) {
        let before = out.aged.len();
        out.aged.extend(self.idle.drain(..count));
        self.held -= out.aged[before..]
            .iter()
            .map(|slot| slot.bytes)
            .sum::<usize>();
        self.low = self.low.saturating_sub(count);
    }

    fn settle(&mut self, budget: &Budget) {
        self.reserve(0, budget);
    }

    /// Gives back to the budget what is charged beyond `most` more than is held.
    fn reserve(&mut self, most: usize, budget: &Budget) {
        let surplus = (self.charged - self.held).saturating_sub(most);
        budget.release(surplus);
        self.charged -= surplus;
    }
}

/// A value that was not kept, and why.
pub(super) type Refused<T> = (Box<Slot<T>>, DropReason);

/// Values on their way out: collected inside the lock, dropped outside.
pub(super) struct Leaving<T> {
    pub(super) aged: Vec<Box<Slot<T>>>,
    pub(super) lent: Vec<Box<Slot<T>>>,
}

impl<T> Leaving<T> {
    pub(super) fn new() -> Self {
        Self {
            aged: Vec::new(),
            lent: Vec::new(),
        }
    }
}

/// Moves `slots` and returns what they hold, in bytes.
fn move_all<T>(
    slots: impl Iterator<Item = Box<Slot<T>>>,
    to: &mut impl Extend<Box<Slot<T>>>,
) -> usize {
    let mut bytes = 0;
    to.extend(slots.inspect(|slot| bytes += slot.bytes));
    bytes
}
