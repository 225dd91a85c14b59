package larder

import (
	"slices"
	"sync"
	"testing"
)

func TestNameSpaceSettings(t *testing.T) {
	engine := open(t, chat)
	for id, nameSpace := range []NameSpace{{}, {Pinned: true}, {MaxIdleTokens: 100}, {KeepsNothing: true}} {
		if err := engine.SetNameSpace(uint64(id), nameSpace); err != nil {
			t.Error(err)
		}
	}
	if err := engine.FlushCache(); err != nil {
		t.Error(err)
	}
}

func TestPrefixIsReused(t *testing.T) {
	engine := open(t, chat)
	prompt := engine.tokens(t, "a prompt of more than a few tokens")
	first := engine.answerTo(t, Request{Tokens: prompt, MaxNewTokens: 4})
	second := engine.answerTo(t, Request{Tokens: prompt, MaxNewTokens: 4})
	if first.last.CachedTokens != 0 || second.last.CachedTokens != len(prompt)-1 {
		t.Errorf("cached: %d, then %d", first.last.CachedTokens, second.last.CachedTokens)
	}
	if !slices.Equal(first.tokens, second.tokens) {
		t.Errorf("%v, with a cached prefix %v", first.tokens, second.tokens)
	}
	other := engine.answerTo(t, Request{Tokens: prompt, MaxNewTokens: 4, NameSpace: 8})
	if other.last.CachedTokens != 0 {
		t.Errorf("another namespace has %d cached tokens", other.last.CachedTokens)
	}
}

func TestNameSpacesAndCache(t *testing.T) {
	var mu sync.Mutex
	evicted := make(map[uint64]uint64)
	engine := open(t, chat, WithEvicted(func(nameSpace, tokens uint64) {
		mu.Lock()
		defer mu.Unlock()
		evicted[nameSpace] += tokens
	}))
	if err := engine.SetNameSpace(7, NameSpace{Pinned: true}); err != nil {
		t.Fatal(err)
	}
	if err := engine.SetNameSpace(8, NameSpace{KeepsNothing: true}); err != nil {
		t.Fatal(err)
	}
	for id := range uint64(9) {
		engine.answerTo(t, Request{Prompt: "a prompt of some tokens", MaxNewTokens: 2, NameSpace: id})
	}
	if err := engine.FlushCache(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if evicted[6] == 0 || evicted[7] != 0 {
		t.Errorf("evicted: %v", evicted)
	}
}
