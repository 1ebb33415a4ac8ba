#!/bin/sh
# break.sh HEADER OUT: writes HEADER to OUT with a switch `sdci_broken` that breaks one rule at a
# time, so that the simulator can show that it notices (build/sim_breaks). 0 breaks none.
#
# Three lines each: the rule's name, a line of the header, and what stands there instead, without
# the white space at both ends; the same name again is a further line of that rule. A line that is
# not in the header exactly once is an error: the rule has moved, and its line here wants to move
# along. BROKEN is true while the rule is broken.
set -eu
header=$1
out=$2
rules=$(mktemp "${TMPDIR:-/tmp}/rules.XXXXXX")
trap 'rm -f "$rules"' EXIT

cat >"$rules" <<'END'
a body whose index went backwards is published
    if (sdci_instancer_went_backwards(i)) {
    if (sdci_instancer_went_backwards(i) && !BROKEN) {
an emptied list is published without a second read
    if (would_empty && sdci_instancer_doubts_empty(i)) {
    if (would_empty && !BROKEN && sdci_instancer_doubts_empty(i)) {
the read after an error has the index of before
    sdci_instancer_pause(i, SDCI_READ_FIRST, pause_ms);
    sdci_instancer_pause(i, BROKEN ? SDCI_READ_BLOCKING : SDCI_READ_FIRST, pause_ms); i->index = BROKEN ? i->asked_index : 0;
the bucket never refuses
    uint64_t num = (now_ms - bucket->filled_at_ms) / bucket->every_ms;
    uint64_t num = (now_ms - bucket->filled_at_ms) / bucket->every_ms + (BROKEN ? 3 : 0);
the pause after a failure never grows
    min_ms *= 2;
    min_ms *= BROKEN ? 1 : 2;
the pause after a failure never grows
    uint64_t max_ms = sdci_max((task->now_ms - task->failing_since_ms) / 2,
    uint64_t max_ms = sdci_max(BROKEN ? 0 : (task->now_ms - task->failing_since_ms) / 2,
a heartbeat that is answered by 404 changes nothing
    bool is_forgotten = err == SDC_ERR_STATUS && sdci_answer_says_unknown(&r->task.answer) &&
    bool is_forgotten = !BROKEN && err == SDC_ERR_STATUS && sdci_answer_says_unknown(&r->task.answer) &&
a status that is set while nothing is registered is lost
    beat->status = mail->status;
    beat->status = BROKEN && sdci_atomic_get(&r->is_registered) == 0 ? beat->status : mail->status;
a read has no deadline
    if (err == SDC_AGAIN && !call->has_more && now_ms >= call->deadline_ms) {
    if (err == SDC_AGAIN && !call->has_more && now_ms >= call->deadline_ms && !BROKEN) {
an answer with the index that was sent is not looked at
    bool would_empty = num == 0 && sdci_cache_newest(i->cache)->num_instances > 0;
    bool would_empty = num == 0 && sdci_cache_newest(i->cache)->num_instances > 0; if (BROKEN && i->read == SDCI_READ_BLOCKING && i->task.answer.index == i->index) { sdci_instancer_pause(i, SDCI_READ_BLOCKING, 0); return SDC_OK; }
subscribers hear of a watch that was stopped
    i->cache->mute = &i->task.is_stopping;
    i->cache->mute = BROKEN ? NULL : &i->task.is_stopping;
a refusal is asked again at once
    bool is_slow = !goes_on && (err == SDC_ERR_DENIED || err == SDC_ERR_BUSY);
    bool is_slow = !BROKEN && !goes_on && (err == SDC_ERR_DENIED || err == SDC_ERR_BUSY);
a status that is the same as before is told again
bool is_same = mail->status == beat->status && strcmp(mail->text, beat->output) == 0;
bool is_same = !BROKEN && mail->status == beat->status && strcmp(mail->text, beat->output) == 0;
a status that changes cuts the pause after a failure short
return sdci_max(sdci_max(now_ms, timer->pause_until_ms),
return sdci_max(sdci_max(now_ms, BROKEN ? 0 : timer->pause_until_ms),
a status that changes fast is told each time
sdci_after(timer->asked_at_ms, SDCI_CHANGE_MS));
sdci_after(timer->asked_at_ms, BROKEN ? 0 : SDCI_CHANGE_MS));
an agent further down the list that refuses a registration is not left
bool is_unwelcome = r->job == SDCI_JOB_REGISTER && r->base != 0 && error->http_status != 0 &&
bool is_unwelcome = !BROKEN && r->job == SDCI_JOB_REGISTER && r->base != 0 && error->http_status != 0 &&
what is asked beside heartbeats takes as long as it likes
most_ms = sdci_min(most_ms, sdci_max(r->beats[i].ttl_ms / 4, 1000));
most_ms = BROKEN ? most_ms : sdci_min(most_ms, sdci_max(r->beats[i].ttl_ms / 4, 1000));
a call that registers gives the first agent all of its time
uint32_t turns = takes_back ? sdci_num_bits(r->held & ~r->tried) : r->call_turns;
uint32_t turns = takes_back ? sdci_num_bits(r->held & ~r->tried) : BROKEN ? 1 : r->call_turns;
stopping a registrar has no bound
    if (err == SDC_AGAIN && r->task.now_ms < r->until_ms) {
    if (err == SDC_AGAIN && (BROKEN || r->task.now_ms < r->until_ms)) {
stopping a registrar has no bound
    uint64_t until_ms = sdci_min(r->stop_at_ms, r->call_until_ms);
    uint64_t until_ms = BROKEN ? SDCI_FOREVER : sdci_min(r->stop_at_ms, r->call_until_ms);
END

awk '
    function trim(s) { gsub(/^[ \t]+|[ \t]+$/, "", s); return s }
    FNR == NR {
        if (FNR % 3 == 1) {
            if (rules == 0 || name[rules] != $0) { name[++rules] = $0 }
        } else if (FNR % 3 == 2) {
            anchor[++n] = trim($0)
        } else {
            change[n] = trim($0)
            gsub(/BROKEN/, "(sdci_broken == " rules ")", change[n])
        }
        next
    }
    {
        line = trim($0)
        for (i = 1; i <= n; i++) {
            if (line == anchor[i]) { seen[i]++; $0 = change[i] }
        }
        print
        if (line == "#define SDCONSUL_IMPLEMENTATION_INCLUDED") {
            print "extern int sdci_broken;"
            print "extern const char *const sdci_rules[];"
            print "int sdci_broken;"
            print "const char *const sdci_rules[] = {"
            for (i = 1; i <= rules; i++) { print "    \"" name[i] "\"," }
            print "    0"
            print "};"
            has_switch = 1
        }
    }
    END {
        for (i = 1; i <= n; i++) {
            if (seen[i] != 1) {
                print "break.sh: " seen[i] + 0 " lines of the header are: " anchor[i] \
                    > "/dev/stderr"
                failed = 1
            }
        }
        if (!has_switch) { print "break.sh: no place for the switch" > "/dev/stderr" }
        exit failed || !has_switch
    }' "$rules" "$header" >"$out" || { rm -f "$out"; exit 1; }
