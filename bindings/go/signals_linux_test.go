package larder

import (
	"bufio"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dispositions are the lines of a thread's status that say what is done with signals.
func dispositions(status string) map[string]string {
	file, err := os.Open(status)
	if err != nil {
		return nil // the thread has ended
	}
	defer file.Close()
	found := make(map[string]string)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if slices.Contains([]string{"SigBlk", "SigIgn", "SigCgt", "Name"}, name) {
			found[name] = strings.TrimSpace(value)
		}
	}
	return found
}

// threads are the signal masks of this process's threads.
func threads(t *testing.T) map[int]string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	masks := make(map[int]string)
	for _, task := range tasks {
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(task)))
		if err != nil {
			t.Fatal(err)
		}
		masks[id] = dispositions(task)["SigBlk"]
	}
	return masks
}

func TestSignalsDuringDecode(t *testing.T) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGPIPE, syscall.SIGURG)
	defer signal.Stop(caught)
	before, masks := dispositions("/proc/self/status"), threads(t)

	engine := open(t, chat, WithThreads(3))
	request := endless()
	want := engine.answerTo(t, request)
	stop, stopped := make(chan struct{}), make(chan int)
	go storm(masks, stop, stopped)
	for range 5 {
		if got := engine.answerTo(t, request); !slices.Equal(got.tokens, want.tokens) {
			t.Error("the answer under signals is another one")
		}
	}
	wantQuietWorkers(t, 2)
	close(stop)
	if n := <-stopped; n == 0 || len(caught) == 0 {
		t.Errorf("%d signals were sent, the program got %d", n, len(caught))
	}

	after := dispositions("/proc/self/status")
	for _, name := range []string{"SigIgn", "SigCgt"} {
		if before[name] != after[name] {
			t.Errorf("%s was %s, now it is %s", name, before[name], after[name])
		}
	}
	for id, mask := range threads(t) {
		if old, ok := masks[id]; ok && mask != "" && old != mask {
			t.Errorf("thread %d blocked %s, now it blocks %s", id, old, mask)
		}
	}
}

// wantQuietWorkers checks that larder's own threads block what may come at any time.
func wantQuietWorkers(t *testing.T, n int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		lines := dispositions(task)
		if lines["Name"] != "larder" {
			continue
		}
		n--
		mask, err := strconv.ParseUint(lines["SigBlk"], 16, 64)
		for _, s := range []syscall.Signal{syscall.SIGURG, syscall.SIGINT, syscall.SIGPIPE} {
			if err != nil || mask&(1<<(s-1)) == 0 {
				t.Errorf("%s blocks %s, and so not %v", task, lines["SigBlk"], s)
			}
		}
	}
	if n != 0 {
		t.Errorf("%d threads of larder's are missing", n)
	}
}

// storm sends signals to the process and to each of its threads until it is stopped, and tells how many.
func storm(threads map[int]string, stop <-chan struct{}, stopped chan<- int) {
	signals := []syscall.Signal{syscall.SIGURG, syscall.SIGINT, syscall.SIGPIPE}
	for n := 0; ; {
		for _, s := range signals {
			for id := range threads {
				// A thread may have ended.
				if syscall.Tgkill(os.Getpid(), id, s) == nil {
					n++
				}
			}
			if syscall.Kill(os.Getpid(), s) == nil {
				n++
			}
		}
		select {
		case <-stop:
			stopped <- n
			return
		case <-time.After(50 * time.Microsecond):
		}
	}
}
