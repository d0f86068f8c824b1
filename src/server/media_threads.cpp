#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

#include "server/api_impl.h"

namespace nibble {
struct MediaThreads::Impl {
  boost::asio::thread_pool pool{2};
};

MediaThreads::MediaThreads() : impl_(std::make_unique<Impl>()) {}
MediaThreads::~MediaThreads() { impl_->pool.join(); }
void MediaThreads::post(std::function<void()> work) { boost::asio::post(impl_->pool, std::move(work)); }
}  // namespace nibble
