// Moves a guest from Node, with nothing but the .proto files: `node migrate.js web SOURCE_TARGET DESTINATION_DAEMON_URI`.
//
// It is peer-to-peer: one call to the source's daemon, which connects to the destination's itself and goes on when this
// program ends. The same call with the same migration id joins it again.
import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTO = process.env.VMFERRY_PROTO ?? fileURLToPath(new URL("../../proto", import.meta.url));
const LIVE = 1 << 0;
const PEER2PEER = 1 << 1;

const files = ["vmferry/api/v1/migration.proto", "vmferry/api/v1/jobs.proto"];
const definition = loader.loadSync(files, { includeDirs: [PROTO], keepCase: true, longs: Number, enums: String });
const { MigrationService, JobService } = grpc.loadPackageDefinition(definition).vmferry.api.v1;

const [domain, source, destination] = process.argv.slice(2);
const credentials = grpc.credentials.createInsecure();
const migration = new MigrationService(source, credentials);
const jobs = new JobService(source, credentials);

const migration_id = randomUUID();
const call = migration.Perform({ migration_id, domain, flags: LIVE | PEER2PEER, destination_daemon_uri: destination });
call.on("data", ({ progress, result }) => {
  if (progress) console.log(`${progress.phase}: ${progress.step}`);
  if (result) console.log(`${result.domain.name} is ${result.domain.state}, moved by migration ${migration_id}`);
});
call.on("error", (error) => {
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
});
call.on("end", () => {
  jobs.GetJob({ migration_id }, (error, answer) => {
    if (error) console.error(error.details);
    else console.log(`the source says: ${answer.job.state}`);
    migration.close();
    jobs.close();
  });
});
