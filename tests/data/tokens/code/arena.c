#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_CHUNK (64u * 1024u)

struct arena_chunk {
	struct arena_chunk *next;
	size_t used, size;
	unsigned char data[];
};

struct arena {
	struct arena_chunk *head;
	size_t total;
};

static struct arena_chunk *arena_grow(struct arena *a, size_t least)
{
	size_t size = least > ARENA_CHUNK ? least : ARENA_CHUNK;
	struct arena_chunk *chunk = malloc(sizeof(*chunk) + size);

	if (!chunk)
		return NULL;
	chunk->next = a->head;
	chunk->used = 0;
	chunk->size = size;
	a->head = chunk;
	a->total += size;
	return chunk;
}

void *arena_alloc(struct arena *a, size_t n)
{
	struct arena_chunk *chunk = a->head;
	uintptr_t mask = alignof(max_align_t) - 1;

	n = (n + mask) & ~mask;	/* round up, so that the next one is aligned too */
	if (!chunk || chunk->size - chunk->used < n) {
		chunk = arena_grow(a, n);
		if (!chunk)
			return NULL;
	}
	void *p = chunk->data + chunk->used;
	chunk->used += n;
	return memset(p, 0, n);
}

void arena_free(struct arena *a)
{
	for (struct arena_chunk *c = a->head, *next; c; c = next) {
		next = c->next;
		free(c);
	}
	a->head = NULL;
}
