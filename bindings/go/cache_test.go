package larder

import "testing"

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
