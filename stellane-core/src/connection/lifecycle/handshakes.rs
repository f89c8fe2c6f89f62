//! Places for the work of TLS handshakes.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Places for what a handshake computes: a thousand times the work of a request. They are held for that only, and not
/// while a client is waited for. Who waits for one does so in a queue of its peer; peers have their turn one after the
/// other, so that one that comes with a thousand handshakes keeps no other waiting.
#[derive(Debug)]
pub(crate) struct HandshakePlaces(Mutex<Places>);

#[derive(Debug)]
struct Places {
    free: usize,
    /// Whose turn is next; each has a queue that is not empty.
    turns: VecDeque<Option<IpAddr>>,
    queues: HashMap<Option<IpAddr>, VecDeque<oneshot::Sender<Place>>>,
}

/// A place, until this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<HandshakePlaces>>);

impl HandshakePlaces {
    pub(crate) fn new(places: usize) -> Self {
        Self(Mutex::new(Places {
            free: places,
            turns: VecDeque::new(),
            queues: HashMap::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub(crate) async fn place(self: &Arc<Self>, peer: Option<IpAddr>) -> Place {
        let waiting = {
            let mut places = self.lock();
            if places.free > 0 {
                places.free -= 1;
                return Place(Some(Arc::clone(self)));
            }
            let (sender, waiting) = oneshot::channel();
            let queue = places.queues.entry(peer).or_default();
            queue.push_back(sender);
            if queue.len() == 1 {
                places.turns.push_back(peer);
            }
            waiting
        };
        // No sender is dropped without a place.
        waiting.await.unwrap_or(Place(None))
    }
}

impl Places {
    /// The one whose turn it is.
    fn next(&mut self) -> Option<oneshot::Sender<Place>> {
        let peer = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&peer)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&peer);
        } else {
            self.turns.push_back(peer);
        }
        next
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(places) = self.0.take() else {
            return;
        };
        let mut place = Self(None);
        loop {
            let Some(next) = ({
                let mut inner = places.lock();
                let next = inner.next();
                inner.free += usize::from(next.is_none());
                next
            }) else {
                return;
            };
            place.0 = Some(Arc::clone(&places));
            match next.send(place) {
                Ok(()) => return,
                // It has gone meanwhile.
                Err(back) => place = back,
            }
            // Or this would be a place that is given back.
            place.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn peer(n: u8) -> Option<IpAddr> {
        Some([192, 0, 2, n].into())
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn peers_have_their_turn_one_after_the_other() {
        let places = Arc::new(HandshakePlaces::new(1));
        let taken = match poll(std::pin::pin!(places.place(peer(1)))) {
            Poll::Ready(place) => place,
            Poll::Pending => panic!("there is one"),
        };
        let mut waiting: Vec<_> = [1, 1, 1, 2, 3, 2]
            .into_iter()
            .map(|n| (n, Some(Box::pin(places.place(peer(n))))))
            .collect();
        let mut take = |order: &mut Vec<u8>| {
            for (n, slot) in &mut waiting {
                if let Some(future) = slot
                    && let Poll::Ready(place) = poll(future.as_mut())
                {
                    *slot = None;
                    order.push(*n);
                    return Some(place);
                }
            }
            None
        };
        let mut order = Vec::new();
        assert!(take(&mut order).is_none());
        drop(taken);
        while let Some(place) = take(&mut order) {
            drop(place);
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 1]);
        assert_eq!(places.lock().free, 1);
    }

    #[test]
    fn a_place_for_one_that_has_gone_is_the_next_ones() {
        let places = Arc::new(HandshakePlaces::new(1));
        let Poll::Ready(taken) = poll(std::pin::pin!(places.place(None))) else {
            panic!("there is one");
        };
        let mut gone = Box::pin(places.place(peer(1)));
        let mut given = Box::pin(places.place(peer(2)));
        let mut last = Box::pin(places.place(peer(3)));
        for waiting in [&mut gone, &mut given, &mut last] {
            assert!(poll(waiting.as_mut()).is_pending());
        }
        drop(gone);
        drop(taken);
        // It was given the place, and has not looked.
        drop(given);
        let Poll::Ready(place) = poll(last.as_mut()) else {
            panic!("it is lost");
        };
        drop(place);
        assert_eq!(places.lock().free, 1);
    }
}
