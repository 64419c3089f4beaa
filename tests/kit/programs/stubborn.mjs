// Does the same as stubborn.py, with node-postgres: stubborn.mjs SECONDS
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

const pg = createRequire(`${process.env.NODE_PROGRAMS}/`)("pg");
const run = randomUUID();
let until = Infinity;
process.on("SIGTERM", () => {});

while (Date.now() < until) {
  const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
  client.on("error", () => {});
  try {
    await client.connect();
    if (until === Infinity) {
      await client.query(
        "INSERT INTO begun (run, seen, at) SELECT $1, (SELECT count(*) FROM work), clock_timestamp()",
        [run],
      );
      until = Date.now() + 1000 * Number(process.argv[2]);
    }
    while (Date.now() < until) {
      await client.query("BEGIN");
      await client.query("INSERT INTO work (run) VALUES ($1)", [run]);
      await client.query("SELECT pg_sleep(0.05)");
      await client.query("COMMIT");
    }
    await client.query("INSERT INTO finished (run) VALUES ($1)", [run]);
    process.exit(0);
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
