/** What `query.ts` starts: the query's program, and the same file once more as the thread of its watchdog. */
import { isMainThread } from "node:worker_threads";

void (isMainThread ? import("./query-program.ts") : import("./watchdog.ts"));
