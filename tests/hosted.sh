#!/bin/sh
# hosted.sh PERDURE SOURCES: the demo as users start it, with its board, kernel and program processes, and the proof failing when it
# must. Prints TAP.
set -u
perdure=$1
. "$2/tests/tap.sh"

# As large as users see it once; then as small as shows the same.
small='--memory 16G --rate 5000 --stretch 50'
check 'there and back, nothing lost' 0 'nothing was lost \(2 hops' demo
check 'the same as JSON' 0 '"clean": true' demo $small --json --hops 1
check 'in scalable mode' 0 'nothing was lost' demo $small --hops 1 --tables scalable
check 'through first-stage tables' 0 'nothing was lost' demo $small --hops 2 --tables first-stage
check 'by programs that know of the socket' 0 'nothing was lost' demo $small --hops 1 --wire
check 'in one process' 0 'nothing was lost' demo --in-process --hops 2 --caches evict
check 'translation off for 5 ms is seen' 1 'DMA did not survive' demo $small --hops 1 --break te-gap
check 'a table page that was not preserved is seen' 1 'poison read as an entry' demo $small --hops 1 --break table-page
check 'the same in scalable mode' 1 'poison read as an entry' demo $small --hops 1 --break table-page --tables scalable
check 'a plain kexec destroys' 1 'bus master off' demo $small --hops 1 --cold
check 'a kernel that is not there is refused before anything is frozen' 1 'ENOENT' demo $small --hops 1 --kernel missing
check 'a program that is no kernel is refused before anything is frozen' 1 'ENOEXEC' demo $small --hops 1 --kernel /bin/true
check 'the selftest of the series, there and back' 0 'both stages passed, to kernel a' selftest
check 'words that mean nothing' 2 'The following argument was not expected|required' demo --nonsense
finish
