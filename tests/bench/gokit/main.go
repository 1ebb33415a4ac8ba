// The instancer of go-kit, with the official client of Consul, as watch.h says.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/consul"
	"github.com/go-kit/log"
	"github.com/hashicorp/consul/api"
)

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

func cpuMicroseconds() int64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return (r.Utime.Nano() + r.Stime.Nano()) / 1000
}

func take(events chan sd.Event, num int) {
	for i := 0; i < num; i++ {
		if event := <-events; event.Err != nil {
			panic(event.Err)
		}
	}
}

func main() {
	port, service := os.Args[1], os.Args[2]
	numWarm, num := number(os.Args[3]), number(os.Args[4])
	client, err := api.NewClient(&api.Config{Address: "127.0.0.1:" + port})
	if err != nil {
		panic(err)
	}
	fmt.Println("idle")
	if n, _ := os.Stdin.Read(make([]byte, 1)); n == 0 {
		return
	}
	instancer := consul.NewInstancer(consul.NewClient(client), log.NewNopLogger(), service, nil, true)
	events := make(chan sd.Event)
	go instancer.Register(events)
	take(events, numWarm)
	began := cpuMicroseconds()
	take(events, num)
	took := cpuMicroseconds() - began
	fmt.Printf("done {\"cpu_us\": %.3f}\n", float64(took)/float64(num))
	<-events
}
