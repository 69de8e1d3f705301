/** sql-query: the first element of a data provider's chain. It runs the question's query over what the grant makes exist. */
import { loadSettings } from "../../lib/config/env.ts";
import { SqlQuerySettings } from "./config.ts";
import { startQueryProcesses } from "./start-processes.ts";

// Before everything else: the query's process loads while this one does.
const processes = startQueryProcesses(() => loadSettings(SqlQuerySettings));
void import("./serve.ts").then(({ serveQueries }) => serveQueries(processes));
