/**
 * What runs the sidecar's program in a pod. Kubernetes restarts a native sidecar whenever it ends before the pod does, and a
 * job's sidecar runs once:
 *
 * - Its program ended well: the launcher waits a little for the microservices, which end by themselves then. Kubernetes ends it
 *   with the pod, and the Job is complete. If the time is over, it ends too, and the runner ends the rest.
 * - Its program failed: the launcher ends with its exit code, which the runner reads.
 * - Started again, it does nothing but wait for the end.
 */

/** A folder of its own, in which it notes that it has been started. */
export const LAUNCHER_FOLDER = "/run/dynamos";

/** How long microservices may take to end behind a sidecar that is done. */
const LAST_STEPS_S = 2;

/** For `sh -c`, with the program and its arguments behind the name. A signal interrupts `wait`, hence the loops. */
export const LAUNCHER = `
if [ -e ${LAUNCHER_FOLDER}/started ]; then
  trap 'exit 0' TERM
  while :; do sleep 3600 & wait $!; done
fi
: > ${LAUNCHER_FOLDER}/started || exit 1
trap 'told=1; [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null' TERM
"$@" </dev/null & pid=$!
while :; do
  wait "$pid"; code=$?
  kill -0 "$pid" 2>/dev/null || break
done
[ "$code" = 0 ] && [ -z "$told" ] || exit "$code"
trap 'exit 0' TERM
sleep ${String(LAST_STEPS_S)} & wait $!
exit 0
`.trim();
