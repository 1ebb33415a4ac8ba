// Picks of go-kit, timed: asked and answering as ../../pick.c says.
package main

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	"github.com/go-kit/log"
)

const grain = 1024

// Made at the first question for that number of instances, and kept.
type pool struct {
	balancers map[string]lb.Balancer
}

func newPool(num int) *pool {
	instances := make(sd.FixedInstancer, num)
	for i := range instances {
		instances[i] = fmt.Sprintf("10.0.%d.%d:%d", i/250, i%250+1, i+1)
	}
	factory := func(string) (endpoint.Endpoint, io.Closer, error) {
		return endpoint.Nop, nil, nil
	}
	endpointer := sd.NewEndpointer(instances, factory, log.NewNopLogger())
	for {
		// the endpointer takes the list on a goroutine of its own
		if all, _ := endpointer.Endpoints(); len(all) == num {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return &pool{map[string]lb.Balancer{
		"round_robin": lb.NewRoundRobin(endpointer),
		"random":      lb.NewRandom(endpointer, 1),
	}}
}

func pick(balancer lb.Balancer) {
	for i := 0; i < grain; i++ {
		if e, err := balancer.Endpoint(); err != nil || e == nil {
			panic("no pick")
		}
	}
}

func run(balancer lb.Balancer, numThreads int, d time.Duration) (time.Duration, uint64) {
	runtime.GOMAXPROCS(numThreads)
	var ready, done sync.WaitGroup
	var numPicks atomic.Uint64
	ready.Add(numThreads)
	done.Add(numThreads)
	began := make([]time.Time, numThreads)
	ended := make([]time.Time, numThreads)
	for i := 0; i < numThreads; i++ {
		go func() {
			ready.Done()
			ready.Wait()
			began[i] = time.Now()
			num := uint64(0)
			for {
				pick(balancer)
				num += grain
				ended[i] = time.Now()
				if ended[i].Sub(began[i]) >= d {
					break
				}
			}
			numPicks.Add(num)
			done.Done()
		}()
	}
	done.Wait()
	first, last := began[0], ended[0]
	for i := range began {
		if began[i].Before(first) {
			first = began[i]
		}
		if ended[i].After(last) {
			last = ended[i]
		}
	}
	return last.Sub(first), numPicks.Load()
}

func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func main() {
	pools := map[int]*pool{}
	for {
		var policy string
		var numInstances, numThreads, ms int
		if _, err := fmt.Scan(&policy, &numInstances, &numThreads, &ms); err != nil {
			return
		}
		if pools[numInstances] == nil {
			pools[numInstances] = newPool(numInstances)
		}
		balancer := pools[numInstances].balancers[policy]
		if balancer == nil {
			panic("no such policy: " + policy)
		}
		before := cpu()
		wall, num := run(balancer, numThreads, time.Duration(ms)*time.Millisecond)
		fmt.Printf("%d %.4f %.3f\n", num, float64(wall.Nanoseconds())/float64(num),
			float64(cpu()-before)/float64(wall))
	}
}
