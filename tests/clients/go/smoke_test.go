// Smoke tests of psmr's key-value store with go-redis, as `make clients` runs them.
package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func addresses(t *testing.T) []string {
	t.Helper()
	found := os.Getenv("PSMR_ADDRESSES")
	if found == "" {
		t.Fatal("PSMR_ADDRESSES is missing: run `make clients`")
	}
	return strings.Split(found, ",")
}

func connect(t *testing.T, protocol int) (*redis.Client, context.Context) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: addresses(t)[0], Protocol: protocol})
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	must(t, client.FlushAll(ctx).Err())
	return client, ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same[T comparable](t *testing.T, found, wanted T) {
	t.Helper()
	if found != wanted {
		t.Fatalf("found %v, not %v", found, wanted)
	}
}

func protocols(t *testing.T, test func(t *testing.T, client *redis.Client, ctx context.Context)) {
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprintf("RESP%d", protocol), func(t *testing.T) {
			client, ctx := connect(t, protocol)
			test(t, client, ctx)
		})
	}
}

func TestStringsBitsAndExpiry(t *testing.T) {
	protocols(t, func(t *testing.T, client *redis.Client, ctx context.Context) {
		must(t, client.Set(ctx, "k", "v", time.Minute).Err())
		same(t, client.Get(ctx, "k").Val(), "v")
		if ttl := client.TTL(ctx, "k").Val(); ttl <= 58*time.Second || ttl > time.Minute {
			t.Fatalf("TTL is %v", ttl)
		}
		same(t, client.Persist(ctx, "k").Val(), true)
		same(t, client.SetNX(ctx, "k", "w", 0).Val(), false)
		same(t, client.GetSet(ctx, "k", "x").Val(), "v")
		same(t, client.IncrBy(ctx, "n", 5).Val(), 5)
		same(t, client.IncrByFloat(ctx, "n", 0.5).Val(), 5.5)
		same(t, client.Append(ctx, "k", "yz").Val(), 3)
		same(t, client.GetRange(ctx, "k", 1, -1).Val(), "yz")
		same(t, client.SetBit(ctx, "bits", 7, 1).Val(), 0)
		same(t, client.BitCount(ctx, "bits", nil).Val(), 1)
		must(t, client.MSet(ctx, "a", 1, "b", 2).Err())
		same(t, fmt.Sprint(client.MGet(ctx, "a", "b", "none").Val()), "[1 2 <nil>]")
		same(t, client.Del(ctx, "a", "b", "none").Val(), 2)
		if err := client.Get(ctx, "a").Err(); !errors.Is(err, redis.Nil) {
			t.Fatalf("a missing key gives %v", err)
		}
		if err := client.Incr(ctx, "k").Err(); err == nil || !strings.Contains(err.Error(), "not an integer") {
			t.Fatalf("INCR of text gives %v", err)
		}
		if err := client.LPush(ctx, "list", 1).Err(); err == nil || !strings.Contains(err.Error(), "unknown command") {
			t.Fatalf("LPUSH gives %v", err)
		}
	})
}

func TestPipelinesAndTransactions(t *testing.T) {
	protocols(t, func(t *testing.T, client *redis.Client, ctx context.Context) {
		results, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i := range 1000 {
				pipe.Set(ctx, "key:"+strconv.Itoa(i), i, 0)
			}
			return nil
		})
		must(t, err)
		same(t, len(results), 1000)
		_, err = client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Incr(ctx, "key:1")
			pipe.Incr(ctx, "key:2")
			return nil
		})
		must(t, err)
		same(t, fmt.Sprint(client.MGet(ctx, "key:1", "key:2").Val()), "[2 3]")

		move := func(interfere bool) error {
			return client.Watch(ctx, func(tx *redis.Tx) error {
				one, err := tx.Get(ctx, "key:1").Int()
				if err != nil {
					return err
				}
				if interfere {
					must(t, client.Set(ctx, "key:1", 100, 0).Err())
				}
				_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
					pipe.Set(ctx, "key:1", one-1, 0)
					pipe.Incr(ctx, "key:2")
					return nil
				})
				return err
			}, "key:1")
		}
		if err := move(true); !errors.Is(err, redis.TxFailedErr) {
			t.Fatalf("a watched key changed, and EXEC gives %v", err)
		}
		must(t, move(false))
		same(t, fmt.Sprint(client.MGet(ctx, "key:1", "key:2").Val()), "[99 4]")
	})
}

func TestScan(t *testing.T) {
	client, ctx := connect(t, 3)
	var wanted, found []string
	for i := range 500 {
		key := fmt.Sprintf("key:%03d", i)
		wanted = append(wanted, key)
		must(t, client.Set(ctx, key, i, 0).Err())
	}
	for keys := client.Scan(ctx, 0, "key:*", 50).Iterator(); keys.Next(ctx); {
		found = append(found, keys.Val())
	}
	slices.Sort(found)
	if !slices.Equal(found, wanted) {
		t.Fatalf("SCAN found %d keys", len(found))
	}
}

func TestClusterClient(t *testing.T) {
	_, ctx := connect(t, 3)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addresses(t)})
	t.Cleanup(func() { _ = client.Close() })
	for i := range 100 {
		must(t, client.Set(ctx, fmt.Sprintf("{tag%d}:a", i), i, 0).Err())
	}
	_, err := client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Incr(ctx, "{tag7}:a")
		pipe.Set(ctx, "{tag7}:b", "x", 0)
		return nil
	})
	must(t, err)
	same(t, client.Get(ctx, "{tag7}:a").Val(), "8")
}

// Last: it ends a replica, which `psmr local` starts again.
func TestZGoesOnWithoutAReplica(t *testing.T) {
	_, ctx := connect(t, 3)
	all := addresses(t)
	next := 0
	dial := func() *redis.Client {
		next++
		return redis.NewClient(&redis.Options{Addr: all[next%len(all)], MaxRetries: -1, DialTimeout: time.Second})
	}
	client := dial()
	defer func() { _ = client.Close() }()
	acknowledged := 0
	for i := range 300 {
		if i == 100 {
			pid, err := strconv.Atoi(strings.Split(os.Getenv("PSMR_PIDS"), ",")[next%len(all)])
			must(t, err)
			must(t, syscall.Kill(pid, syscall.SIGKILL))
		}
		for client.Set(ctx, "number", i, 0).Err() != nil {
			must(t, ctx.Err())
			_ = client.Close()
			time.Sleep(50 * time.Millisecond)
			client = dial()
		}
		acknowledged = i
	}
	same(t, client.Get(ctx, "number").Val(), strconv.Itoa(acknowledged))
}
