package ring

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed is returned once the buffer has been closed and drained.
var ErrClosed = errors.New("ring: closed")

type Buffer[T any] struct {
	mu     sync.Mutex
	items  []T
	head   int
	size   int
	closed bool
	ready  chan struct{}
}

func New[T any](capacity int) *Buffer[T] {
	return &Buffer[T]{items: make([]T, capacity), ready: make(chan struct{}, 1)}
}

// Push drops the oldest item when the buffer is full; it reports whether it did.
func (b *Buffer[T]) Push(item T) (dropped bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size == len(b.items) {
		b.head = (b.head + 1) % len(b.items)
		b.size--
		dropped = true
	}
	b.items[(b.head+b.size)%len(b.items)] = item
	b.size++
	select {
	case b.ready <- struct{}{}:
	default:
	}
	return dropped
}

func (b *Buffer[T]) Pop(ctx context.Context) (item T, err error) {
	for {
		b.mu.Lock()
		if b.size > 0 {
			item = b.items[b.head]
			b.head = (b.head + 1) % len(b.items)
			b.size--
			b.mu.Unlock()
			return item, nil
		}
		closed := b.closed
		b.mu.Unlock()
		if closed {
			return item, ErrClosed
		}
		select {
		case <-b.ready:
		case <-ctx.Done():
			return item, ctx.Err()
		}
	}
}
