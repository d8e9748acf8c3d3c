// What a record says of where it was made: program, machine, launcher. Read from the system when
// asked for; nothing is kept.
#pragma once

#include <cstdint>
#include <string>

namespace pipemark {

std::string git_hash();
bool git_dirty();
std::string version_text();  ///< "pipemark 0.1.0 (git 0123abcd, dirty)"
std::string join_command_line(int argc, char** argv);

/// Rank given by the launcher (Open MPI, MPICH, Slurm) before MPI is started; 0 without one.
int launched_rank();
/// Ranks given by the launcher; 0 without one.
int launched_ranks();

std::string cpu_model();
int usable_cores();  ///< hardware threads this process may run on
/// "model x cores, memory": what a fingerprint calls the machine.
std::string machine_text();
/// Lines "key = value": CPU, cores, memory, governor, kernel, GPU and driver, MPI library,
/// libraries, Slurm and other relevant variables, node list.
std::string environment_text(const std::string& mpi_library, const std::string& nodes);

std::string utc_now();   ///< "2026-01-31T12:00:00Z"
std::string new_uuid();  ///< version 4

/// FNV-1a, 64 bits. Tells files and texts apart; no protection against intent.
std::uint64_t hash_bytes(const void* data, std::size_t bytes,
                         std::uint64_t hash = 0xcbf29ce484222325u);
std::string binary_hash();  ///< of this program's file

}  // namespace pipemark
