/* ======================================================================== */
/* Keys: what another format says, under GGUF's names                        */
/* ========================================================================
   A reader of a format without GGUF's keys makes them up: it fills a list, which answers `value`,
   `next` and `entry` of a source. `self` of such a source begins with its list. A key that begins
   with '.' is kept without the architecture. Memory that the reader takes from the list lives as
   long as the list. */
#ifndef CONVERT_KEYS_H
#define CONVERT_KEYS_H

#include "source.h"

typedef struct key_entry {
    const char *key;
    source_value value;
} key_entry;

typedef struct key_list {
    key_entry *entries;
    size_t count, room;
    void **blocks; /* memory taken */
    size_t block_count, block_room;
    bool failed;   /* no memory for something */
} key_list;

static LLM__UNUSED llm_result keys_no_memory(llm_error *error) {
    return llm__fail(error, LLM_ERROR_MEMORY, "no memory for the input's names and settings");
}

/* `array` with room for element number `count`; NULL and `failed` when there is none. */
static void *keys_grow(key_list *list, void *array, size_t *room, size_t count, size_t size) {
    size_t more = *room ? 2 * *room : 64;
    void *grown = array;
    if (count >= *room) grown = more < SIZE_MAX / 2 / size ? realloc(array, more * size) : NULL;
    if (!grown) list->failed = true;
    else if (count >= *room) *room = more;
    return grown;
}

/* Zeroed memory; NULL and `failed` when there is none. */
static void *keys_take(key_list *list, size_t count, size_t size) {
    void **blocks = (void **)keys_grow(list, list->blocks, &list->block_room, list->block_count,
                                       sizeof *blocks);
    void *memory = NULL;
    if (!blocks) return NULL;
    list->blocks = blocks;
    memory = calloc(count ? count : 1, size);
    if (memory) blocks[list->block_count++] = memory;
    else list->failed = true;
    return memory;
}

static void keys_add(key_list *list, const char *key, const source_value *value) {
    key_entry *grown = (key_entry *)keys_grow(list, list->entries, &list->room, list->count,
                                              sizeof *grown);
    if (!grown) return;
    list->entries = grown;
    grown[list->count].key = key;
    grown[list->count++].value = *value;
}

static void keys_number(key_list *list, const char *key, double number) {
    source_value value;
    memset(&value, 0, sizeof value);
    value.kind = SOURCE_NUMBER;
    value.number = number;
    keys_add(list, key, &value);
}

static void keys_text(key_list *list, const char *key, llm_text text) {
    source_value value;
    memset(&value, 0, sizeof value);
    value.kind = SOURCE_TEXT;
    value.text = text;
    keys_add(list, key, &value);
}

/* `elements`: double or llm_text, as `element` says; they live as long as the list. */
static void keys_array(key_list *list, const char *key, int element, const void *elements,
                       size_t count) {
    source_value value;
    memset(&value, 0, sizeof value);
    value.kind = SOURCE_ARRAY;
    value.element = element;
    value.count = count;
    value.at = (const uint8_t *)elements;
    keys_add(list, key, &value);
}

/* A number that was added; 0 when it was not. */
static LLM__UNUSED double keys_find(const key_list *list, const char *key) {
    size_t i;
    for (i = 0; i < list->count; i++)
        if (strcmp(list->entries[i].key, key) == 0) return list->entries[i].value.number;
    return 0.0;
}

static void keys_free(key_list *list) {
    size_t i;
    for (i = 0; i < list->block_count; i++) free(list->blocks[i]);
    free(list->blocks);
    free(list->entries);
    memset(list, 0, sizeof *list);
}

/* ---- as functions of a source ------------------------------------------- */

static source_value keys_value(const source_file *s, const char *key) {
    const key_list *list = (const key_list *)s->self;
    source_value none;
    size_t i;
    for (i = 0; i < list->count; i++)
        if (strcmp(list->entries[i].key, key) == 0) return list->entries[i].value;
    memset(&none, 0, sizeof none);
    return none;
}

static bool keys_next(const source_file *s, source_value *array, source_value *element) {
    (void)s;
    if (array->kind != SOURCE_ARRAY || array->count == 0) return false;
    memset(element, 0, sizeof *element);
    element->kind = array->element;
    if (array->element == SOURCE_TEXT) {
        memcpy(&element->text, array->at, sizeof element->text);
        array->at += sizeof element->text;
    } else {
        memcpy(&element->number, array->at, sizeof element->number);
        array->at += sizeof element->number;
    }
    array->count--;
    return true;
}

static bool keys_entry(const source_file *s, size_t index, llm_text *key, source_value *value) {
    const key_list *list = (const key_list *)s->self;
    if (index >= list->count) return false;
    *key = text_of(list->entries[index].key);
    *value = list->entries[index].value;
    return true;
}

#endif
